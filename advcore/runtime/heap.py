"""How the C library treats memory that is freed. Never imports torch.

A training step frees all its activations, and the next step allocates them again. glibc returns much of that memory to
the system in between, which maps and zeroes it again page by page. That is a good part of a small network's time on a
CPU (benchmarks/cpu.md).
"""

import ctypes
import os
from collections.abc import Mapping

_TRIM_THRESHOLD = -1  # parameters of mallopt, from glibc's malloc.h
_MMAP_THRESHOLD = -3
_NEVER = -1
_LARGEST = 256 * 2**20  # bytes of a block that is kept; mapping a larger one again is cheap for its size
# Environment variables by which a user has chosen an allocator or its settings.
USERS_CHOICE = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "LD_PRELOAD")


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Let the process keep memory that is freed, up to its peak, for its next use.

    This holds for the whole process and cannot be undone, so only the command line does it unasked. No result depends
    on it. Returns whether it was done: it is not where the C library is not glibc, nor where `environment` holds a
    choice of the user (`USERS_CHOICE`).
    """
    if any(name in environment for name in USERS_CHOICE):
        return False
    try:
        adjust = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have no mallopt; Windows refuses the name None
        return False
    return bool(adjust(_TRIM_THRESHOLD, _NEVER)) and bool(adjust(_MMAP_THRESHOLD, _LARGEST))
