"""Shares that add up."""

from collections.abc import Sequence


def floor_share(part: float, n: int) -> int:
    """int(part x n), whatever the product rounds to: 0.29 of 100 is 29."""
    return int(part * n + 1e-9)


def largest_remainder(total: int, sizes: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `sizes` into whole numbers that sum to it, none above its size.

    Largest remainder (Hamilton); ties go to the lower position. `total` is at most sum(sizes).
    """
    whole = sum(sizes)
    if whole == 0:
        return [0 for _ in sizes]
    counts = [total * size // whole for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(total * sizes[i] % whole), i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
