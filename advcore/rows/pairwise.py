"""Matrices over all pairs of rows: inner products and distances.

Distances come from float64 products and are rounded once, when they are stored: to float64 for few rows, to float32 for
many. Inner products of many float32 rows are float32 products: what they decide is refitted in float64 (GradMatch).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from advcore.rows import ALL, FactoredRows, Rows, Where, cut
from advcore.runtime.device import force_float32

EXACT_UP_TO = 2048  # rows up to which a matrix is small enough to be kept in float64
CONVERTED_UP_TO = 2**25  # bytes of rows up to which `use_exact_factors` converts them
_EQUAL = 1e-12  # squared distance over squared norms below which two rows count as equal
_ROUNDING = 1e-14  # the same over squared parts: what is left where passes cancel is rounding
_TILE = 512  # rows and columns of a matrix that are computed at a time: 2 MB of float64


def matrix_dtype(rows: Rows) -> torch.dtype:
    """Return the dtype of a matrix over all pairs: float64 for float64 rows and for up to 2048 rows, else float32."""
    is_exact = rows.dtype == torch.float64 or len(rows) <= EXACT_UP_TO
    return torch.float64 if is_exact else torch.float32


def use_exact_factors(rows: Rows) -> Rows:
    """Return small rows with float64 factors, so that they are converted once and not for every product.

    Rows of more than 32 MiB, and rows in a file, are returned as they are.
    """
    is_converted = rows.dtype != torch.float64 and rows.nbytes <= CONVERTED_UP_TO and _is_in_memory(rows)
    return rows.to_float64() if is_converted else rows


def _is_in_memory(rows: Rows) -> bool:
    return getattr(rows, "release", None) is None


def matrix_bytes(n: int) -> int:
    """Return the size of a matrix over all pairs of n float32 rows, in bytes."""
    return (8 if n <= EXACT_UP_TO else 4) * n * n


def gram_matrix(rows: Rows, dtype: torch.dtype = torch.float64, *, unit: float = 1.0) -> Tensor:
    """Return the inner products of all pairs of rows over `unit`, (N, N), symmetric, in `dtype`.

    They are products in float64, but for float32 matrices of factors in memory, which are products in float32.
    Cost O(N^2 (C + D) / 2) time; memory is the matrix and another O(N (C + D)).
    """
    if dtype == torch.float32 and isinstance(rows, FactoredRows) and _is_in_memory(rows):
        small, scale = rows.to_float32()
        with force_float32():
            return _fill_symmetric(small, dtype, lambda tile, i, j: tile.mul_(scale * (scale / unit)), products=dtype)
    return _fill_symmetric(rows, dtype, lambda tile, i, j: tile.mul_(1 / unit))


def choose_unit(squared_norms: Tensor) -> float:
    """Return a power of two near the largest squared norm: inner products over it fit float32 and lose no digit."""
    return 2.0 ** math.floor(math.log2(float(squared_norms.max()) or 1.0))


def distance_matrix(
    rows: Rows, dtype: torch.dtype = torch.float64, *, squared: bool = False, unit: float = 1.0
) -> Tensor:
    """Return the Euclidean distances (`squared`: their squares) over `unit`, (N, N), symmetric, 0 for equal rows.

    They come from float64 inner products, each rounded once to `dtype`. Rows closer than 1e-6 x their norm, or, where a
    row's passes cancel, than 1e-7 x the passes' own norms, are at distance 0: float32 factors can hardly distinguish
    them. Cost as `gram_matrix`.
    """
    return _fill_symmetric(rows, dtype, distances_between(rows, squared=squared, unit=unit)).fill_diagonal_(0)


def distances_between(
    rows: Rows, *, squared: bool = False, unit: float = 1.0
) -> Callable[[Tensor, Where, Where], Tensor]:
    """Return a function from (inner products, i, j) to the distances of rows i from rows j, in the products' memory."""
    norms = rows.squared_norms()
    least = torch.maximum(_EQUAL * norms, _ROUNDING * rows.squared_parts())

    def measure(tile: Tensor, i: Where, j: Where) -> Tensor:
        tile.mul_(-2).add_(norms[i][:, None]).add_(norms[j][None, :])
        tile.masked_fill_(tile <= least[i][:, None] + least[j][None, :], 0)
        return (tile if squared else tile.sqrt_()).div_(unit)

    return measure


def _fill_symmetric(
    rows: Rows,
    dtype: torch.dtype,
    transform: Callable[[Tensor, slice, slice], Tensor],
    products: torch.dtype = torch.float64,
) -> Tensor:
    """Return a symmetric (N, N) matrix in `dtype`, computed a tile at a time, each pair of rows once.

    transform : (inner products, i, j) to the entries of the matrix for rows i and j.
    products : dtype in which inner products are computed.
    """
    n = len(rows)
    rows = use_exact_factors(rows) if products == torch.float64 else rows
    matrix = torch.empty(n, n, dtype=dtype, device=rows.device)
    for i in cut(ALL, n, _TILE):
        for j in cut(slice(i.start, n), n, _TILE):
            tile = transform(rows.gram(i, j, products), i, j)
            if i == j:
                tile = (tile + tile.T) / 2
            stored = tile.to(dtype)
            matrix[i, j] = stored
            matrix[j, i] = stored.T
    return matrix
