"""Work on a batch in pieces, which become smaller when memory runs out; and what to say where they cannot."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from advcore.errors import NoMemoryError
from advcore.runtime import cuda_graphs as graphs
from advcore.runtime.device import release_memory
from advcore.shares import measure_next_piece
from advcore.types import Event

log = logging.getLogger(__name__)
Result = TypeVar("Result")

_WORDS = ("out of memory", "not enough memory", "can't allocate memory")  # as CUDA and the CPU allocator say it


@dataclass
class Pieces:
    """How large a piece of work may be: halved, down to `least`, each time the device's memory runs out.

    Parameters
    ----------
    size : examples in a piece, a multiple of `least`. It never grows again.
    least : the smallest size.
    of : what the pieces consist of, for `events`.

    `events` holds one of kind "memory" for each time that the size was halved.
    """

    size: int
    least: int = 16
    of: str = "examples"
    events: list[Event] = field(default_factory=list, init=False)

    def run(self, n: int, work: Callable[[slice], Result]) -> list[Result]:
        """Return `work(piece)` for consecutive pieces of 0..n - 1, in order, cut by `measure_next_piece`.

        Raises what `work` raises; of errors about memory, only those that come at the smallest size.
        """
        done = 0
        results = []
        while done < n:
            size = min(self.size, n)
            try:
                end = min(done + size, n)
                if self.least > 1:  # examples, and not problems, which may be alone
                    end = done + measure_next_piece(n - done, size)
                results.append(work(slice(done, end)))
                done = end
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or size <= self.least:
                    raise
            self._halve(size)  # outside of the handler, where the memory of the failed call is free again
        return results

    def _halve(self, size: int) -> None:
        self.size = max(self.least, size // 2 // self.least * self.least)
        graphs.forget()  # each graph holds the memory of a whole attack
        release_memory()
        self.events.append(Event("memory", f"out of memory with {size} {self.of} at once; continuing with {self.size}"))
        log.warning("%s", self.events[-1])


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on CUDA or in the CPU's allocator."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in _WORDS)


@contextlib.contextmanager
def explain_out_of_memory(doing: str, way_out: str) -> Iterator[None]:
    """Raise NoMemoryError where memory runs out inside; it says what was done, how much was wanted, and the way out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        request = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.I)
        amount = f" ({request[1]} were asked for)" if request else ""
        raise NoMemoryError(f"memory ran out {doing}{amount}; {way_out}") from error
