"""What the launcher that started several processes says of this one. Never imports torch."""

import os


def get_launched_rank() -> int | None:
    """Return this process's number among those that torchrun, or a launcher like it, started; None for one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        return int(os.environ["RANK"])
    return None
