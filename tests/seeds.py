"""Random weights for the models that tests build, without a trace in the global random state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Seed torch's generator on the host within the block; it is as before afterwards.

    `torch.manual_seed` gives the same numbers, but formats the call stack for every kind of device that has not been
    started, which costs 2 ms under pytest.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
