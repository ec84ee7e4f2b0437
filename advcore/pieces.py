"""Work on a batch piece by piece, in smaller pieces once memory runs out; and what to say where that is no way."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from advcore import graphs
from advcore.device import release
from advcore.errors import NoMemoryError

log = logging.getLogger(__name__)
Result = TypeVar("Result")

_WORDS = ("out of memory", "not enough memory", "can't allocate memory")  # as CUDA and the CPU allocator say it


class Pieces:
    """How large a piece may be; halves, down to `least`, when the device's memory runs out, and stays there.

    size : how many, a multiple of `least`. of : what, for the events. events : what happened, one line each.
    """

    def __init__(self, size: int, least: int = 16, *, of: str = "examples"):
        self.size, self._least, self._of = size, least, of
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
        self.size = max(self._least, size // 2 // self._least * self._least)
        graphs.forget()  # each holds the memory of a whole attack
        release()
        self.events.append(f"out of memory with {size} {self._of} at once; going on with {self.size}")
        log.warning("%s", self.events[-1])


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on CUDA or in the CPU's allocator."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in _WORDS)


@contextlib.contextmanager
def advised(doing: str, way_out: str) -> Iterator[None]:
    """Where memory runs out inside, raise NoMemoryError: while doing what, how much was asked for, and the way out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.I)
        amount = f" ({asked[1]} were asked for)" if asked else ""
        raise NoMemoryError(f"memory ran out {doing}{amount}; {way_out}") from error
