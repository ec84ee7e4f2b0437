"""Matrices of all pairs of rows: inner products and distances.

Distances are float64 products, rounded once when they are stored: to float64 for few rows, to float32 for many.
Inner products of many float32 rows are float32 products: what they decide is refitted in float64 (GradMatch).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from advcore.device import full_float32
from advcore.rows import ALL, FactoredRows, Rows, Where, cut

EXACT_UP_TO = 2048  # rows: a matrix is kept in float64 up to here, where it is small
_EQUAL = 1e-12  # squared distance over squared norms below which two rows count as equal
_ROUNDING = 1e-14  # the same over squared parts: what is left where passes cancel is rounding
_TILE = 512  # rows and columns of a matrix that are computed at a time: 2 MB of float64
CONVERTED = 2**25  # bytes of rows up to which `ready` converts them


def matrix_dtype(rows: Rows) -> torch.dtype:
    """Of a matrix of all pairs: float64 for float64 rows and up to 2048 rows, float32 for more."""
    exact = rows.dtype == torch.float64 or len(rows) <= EXACT_UP_TO
    return torch.float64 if exact else torch.float32


def ready(rows: Rows) -> Rows:
    """The rows with float64 factors if these are small (64 MB): then they are converted once, not for every product.
    Rows in a file stay there."""
    return rows.exact() if rows.nbytes <= CONVERTED and rows.dtype != torch.float64 and _in_memory(rows) else rows


def _in_memory(rows: Rows) -> bool:
    return getattr(rows, "release", None) is None


def matrix_bytes(n: int) -> int:
    """What such a matrix of n float32 rows holds."""
    return (8 if n <= EXACT_UP_TO else 4) * n * n


def gram_matrix(rows: Rows, dtype: torch.dtype = torch.float64, *, unit: float = 1.0) -> Tensor:
    """(N, N) inner products over `unit`, symmetric: of float64 factors in float64, of float32 factors in `dtype`.

    Cost O(N^2 (C + D) / 2) time; memory is the matrix and O(N (C + D)) beside it.
    """
    if dtype == torch.float32 and isinstance(rows, FactoredRows) and _in_memory(rows):
        small, scale = rows.in_float32()
        with full_float32():
            return _all_pairs(small, dtype, lambda block, i, j: block.mul_(scale * (scale / unit)), products=dtype)
    return _all_pairs(rows, dtype, lambda block, i, j: block.mul_(1 / unit))


def natural_unit(squared_norms: Tensor) -> float:
    """A power of two near the largest squared norm: over it, inner products fit float32 and lose no digit."""
    largest = float(squared_norms.max())
    return 2.0 ** math.floor(math.log2(largest)) if largest > 0 else 1.0


def distance_matrix(
    rows: Rows, dtype: torch.dtype = torch.float64, *, squared: bool = False, unit: float = 1.0
) -> Tensor:
    """(N, N) Euclidean distances (`squared`: their squares) over `unit`; exactly 0 for equal rows, symmetric.

    Through float64 inner products, each rounded once to `dtype`; pairs closer than 1e-6 x norm, or, where a row's
    passes cancel, than 1e-7 x the passes' own norms, are at distance 0: float32 factors can hardly tell them apart.
    Cost as `gram_matrix`.
    """
    between = distances_between(rows, squared=squared)
    return _all_pairs(rows, dtype, lambda block, i, j: between(block, i, j).div_(unit)).fill_diagonal_(0)


def distances_between(rows: Rows, *, squared: bool = False) -> Callable[[Tensor, Where, Where], Tensor]:
    """(gram block, i, j) to the distances of rows i from rows j, in the block's memory."""
    norms = rows.squared_norms()
    least = torch.maximum(_EQUAL * norms, _ROUNDING * rows.squared_parts())

    def entries(block: Tensor, i: Where, j: Where) -> Tensor:
        block.mul_(-2).add_(norms[i][:, None]).add_(norms[j][None, :])
        block.masked_fill_(block <= least[i][:, None] + least[j][None, :], 0)
        return block if squared else block.sqrt_()

    return entries


def _all_pairs(
    rows: Rows,
    dtype: torch.dtype,
    entries: Callable[[Tensor, slice, slice], Tensor],
    products: torch.dtype = torch.float64,
) -> Tensor:
    """A symmetric (N, N) matrix, a tile of it at a time, each pair computed once."""
    n = len(rows)
    rows = ready(rows) if products == torch.float64 else rows
    matrix = torch.empty(n, n, dtype=dtype, device=rows.device)
    for i in cut(ALL, n, _TILE):
        for j in cut(slice(i.start, n), n, _TILE):
            tile = entries(rows.gram(i, j, products), i, j)
            if i == j:
                tile = (tile + tile.T) / 2
            stored = tile.to(dtype)
            matrix[i, j] = stored
            matrix[j, i] = stored.T
    return matrix
