"""Positions of rows, and how they are cut into pieces."""

from collections.abc import Iterator

from torch import Tensor

Where = Tensor | slice
ALL = slice(None)


def cut(i: Where, n: int, size: int) -> Iterator[Where]:
    """Yield the positions `i`, each in 0..n - 1, in pieces of at most `size`; a slice is cut into slices.

    No positions give one empty piece.
    """
    if isinstance(i, Tensor):
        yield from i.split(size)
        return
    start, stop, _ = i.indices(n)
    for low in range(start, max(stop, start + 1), size):
        yield slice(low, min(low + size, stop))


def count(i: Where, n: int) -> int:
    """Return how many of n rows are at the positions `i`."""
    if isinstance(i, Tensor):
        return len(i)
    return len(range(*i.indices(n)))
