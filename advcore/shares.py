"""Whole-number shares that add up."""

from collections.abc import Sequence


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
