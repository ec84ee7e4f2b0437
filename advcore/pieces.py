"""Work on a batch piece by piece, in smaller pieces once memory runs out."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)
Result = TypeVar("Result")

_WORDS = ("out of memory", "not enough memory", "can't allocate memory")  # as CUDA and the CPU allocator say it


class Pieces:
    """How large a piece may be; halves, down to `least`, when the device's memory runs out, and stays there.

    size : examples, a multiple of 16. events : what happened, one line each.
    """

    def __init__(self, size: int, least: int = 16):
        self.size, self._least = size, least
        self.events: list[str] = []

    def over(self, n: int, work: Callable[[slice], Result]) -> list[Result]:
        """`work(piece)` for the pieces of 0..n - 1, in order. Raises what `work` does, out of memory at `least` too."""
        done, results = 0, []
        while done < n:
            size = min(self.size, n)
            try:
                results.append(work(slice(done, min(done + size, n))))
                done += size
                continue
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error) or size <= self._least:
                    raise
            self._halve(size)  # here, where what the failed call held is free
        return results

    def _halve(self, size: int) -> None:
        self.size = max(self._least, size // 2 // 16 * 16)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        self.events.append(f"out of memory with {size} examples at once; going on with {self.size}")
        log.warning("%s", self.events[-1])


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on CUDA or in the CPU's allocator."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in _WORDS)
