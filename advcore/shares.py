"""Whole-number shares that sum to a total, pieces of a given size, and division that allows a total of 0."""

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

Amount = TypeVar("Amount", float, Tensor)


def divide(part: Amount, total: Amount) -> Amount:
    """Return part / total, where a total of 0 counts as 1: an empty share, or a mean with weights of 0, is 0.

    Every division by a sum of weights, of counts or of norms that may be 0 goes through here. Value and gradient are
    finite there.
    """
    if isinstance(total, Tensor):
        return part / total.masked_fill(total == 0, 1)
    return part / (total or 1)


def measure_next_piece(left: int, size: int) -> int:
    """Return the length of the next piece of what is cut into pieces of `size`, where `left` examples are left.

    It is `size`, or one more where the last example would be alone, because BatchNorm cannot train on one example;
    or all that is left. Whatever is cut into chunks, pieces, batches or steps is cut by this. Pieces of size 1 are
    asked for, and stay.
    """
    if left == size + 1 and size > 1:
        return left
    return min(left, size)


def floor_share(part: float, n: int) -> int:
    """Return int(part x n), as if the product were not rounded: 0.29 of 100 is 29."""
    return int(part * n + 1e-9)


def apportion(total: int, sizes: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `sizes` into whole numbers that sum to it, none above its size.

    `total` is at most sum(sizes). Largest remainder (Hamilton); ties go to the lower position.
    """
    size_sum = sum(sizes) or 1  # of nothing, each gets nothing
    counts = [total * size // size_sum for size in sizes]
    remainders = [total * size % size_sum for size in sizes]
    # a reversed sort is stable too, so that equal remainders stay in the order of their positions
    by_remainder = sorted(range(len(sizes)), key=remainders.__getitem__, reverse=True)
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
