"""How many processes do a run, and which of them this one is. Where torch.distributed is not set up there is one."""

import torch.distributed as dist


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0; 0 is the first, which reads and writes files."""
    return dist.get_rank() if size() > 1 else 0


def name_for_process(name: str) -> str:
    """Return a name for random numbers that is different in each process; in the first, the name as it is."""
    return f"{name}, process {rank()}" if rank() else name


def is_first() -> bool:
    """Return whether this process is the one that reads and writes files."""
    return rank() == 0
