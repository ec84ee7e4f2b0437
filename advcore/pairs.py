"""Matrices of all pairs of rows: inner products and distances.

Every entry is a float64 product that is rounded once, when it is stored: to float64 for few rows, to float32 for many.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from advcore.rows import ALL, Rows, Where, cut

EXACT_UP_TO = 5000  # rows: a matrix is kept in float64 up to here, 200 MB
_EQUAL = 1e-12  # squared distance over squared norms below which two rows count as equal
_ROUNDING = 1e-14  # the same over squared parts: what is left where passes cancel is rounding
_TILE = 512  # rows and columns of a matrix that are computed at a time: 2 MB of float64


def matrix_dtype(rows: Rows) -> torch.dtype:
    """Of a matrix of all pairs: float64 for float64 rows and up to 5000 rows, float32 for more."""
    exact = rows.dtype == torch.float64 or len(rows) <= EXACT_UP_TO
    return torch.float64 if exact else torch.float32


def matrix_bytes(n: int) -> int:
    """What such a matrix of n float32 rows holds."""
    return (8 if n <= EXACT_UP_TO else 4) * n * n


def gram_matrix(rows: Rows, dtype: torch.dtype = torch.float64, *, unit: float = 1.0) -> Tensor:
    """(N, N) inner products over `unit`, symmetric; float64 products, each rounded once to `dtype`.

    Cost O(N^2 (C + D) / 2) time; memory is the matrix and O(N (C + D)) beside it.
    """
    return _all_pairs(rows, dtype, lambda block, i, j: block.mul_(1 / unit))


def natural_unit(rows: Rows) -> float:
    """A power of two near the largest squared norm: over it, inner products fit float32 and lose no digit."""
    largest = float(rows.squared_norms().max())
    return 2.0 ** math.floor(math.log2(largest)) if largest > 0 else 1.0


def distance_matrix(rows: Rows, dtype: torch.dtype = torch.float64, *, squared: bool = False) -> Tensor:
    """(N, N) Euclidean distances (`squared`: their squares); exactly 0 for equal rows, symmetric.

    Through float64 inner products, each rounded once to `dtype`; pairs closer than 1e-6 x norm, or, where a row's
    passes cancel, than 1e-7 x the passes' own norms, are at distance 0: float32 factors can hardly tell them apart.
    Cost as `gram_matrix`.
    """
    between = distances_between(rows, squared=squared)
    return _all_pairs(rows, dtype, between).fill_diagonal_(0)


def distances_between(rows: Rows, *, squared: bool = False) -> Callable[[Tensor, Where, Where], Tensor]:
    """(gram block, i, j) to the distances of rows i from rows j, in the block's memory."""
    norms = rows.squared_norms()
    least = torch.maximum(_EQUAL * norms, _ROUNDING * rows.squared_parts())

    def entries(block: Tensor, i: Where, j: Where) -> Tensor:
        block.mul_(-2).add_(norms[i][:, None]).add_(norms[j][None, :])
        block.masked_fill_(block <= least[i][:, None] + least[j][None, :], 0)
        return block if squared else block.sqrt_()

    return entries


def _all_pairs(rows: Rows, dtype: torch.dtype, entries: Callable[[Tensor, slice, slice], Tensor]) -> Tensor:
    """A symmetric (N, N) matrix, a tile of it at a time, each pair computed once."""
    n = len(rows)
    matrix = torch.empty(n, n, dtype=dtype, device=rows.device)
    for i in cut(ALL, n, _TILE):
        for j in cut(slice(i.start, n), n, _TILE):
            tile = entries(rows.gram(i, j), i, j)
            if i == j:
                tile = (tile + tile.T) / 2
            matrix[i, j] = tile
            matrix[j, i] = tile.T
    return matrix
