"""Rows written out as a matrix, means of blocks of rows, and how positions of rows are cut into pieces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

if TYPE_CHECKING:
    from advcore.rows.factored import FactoredRows

Where = Tensor | slice
ALL = slice(None)
_TILE = 256 * 2**20  # bytes of block means that are written out at a time


@overload
def cut(i: slice, n: int, size: int) -> Iterator[slice]: ...


@overload
def cut(i: Tensor, n: int, size: int) -> Iterator[Tensor]: ...


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


@dataclass(frozen=True, kw_only=True)
class DenseRows:
    """N rows written out: scores (F = 1), rows of another kind, and tests. Methods are those of `FactoredRows`.

    Parameters
    ----------
    matrix : (N, F) float tensor.
    """

    matrix: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def take(self, i: Tensor) -> "DenseRows":
        return DenseRows(matrix=self.matrix[i])

    def to_float64(self) -> "DenseRows":
        return DenseRows(matrix=self.matrix.double())

    def gram(self, i: Where = ALL, j: Where = ALL, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.matrix[i].to(dtype) @ self.matrix[j].to(dtype).T

    def squared_norms(self) -> Tensor:
        return self.matrix.double().square().sum(1)

    squared_parts = squared_norms

    def total(self, i: Where = ALL) -> Tensor:
        return self.matrix[i].double().sum(0)

    def combine(self, i: Tensor, w: Tensor) -> Tensor:
        return w.double() @ self.matrix[i].double()

    def correlate(self, target: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.matrix.to(dtype) @ target.to(dtype)

    def dense(self) -> Tensor:
        return self.matrix.double()


@dataclass(frozen=True, kw_only=True)
class BlockRows:
    """One row for each block of indices: the mean of its members' rows. Methods are those of `FactoredRows`.

    The means are never held all at once: a tile of blocks is written out at a time. Products are exact, in float64.
    Cost of `gram` O(N C D) a tile and O(blocks^2 C D); of everything else O(N C D).

    Parameters
    ----------
    members : rows that the blocks' indices refer to.
    blocks : one tensor of indices for each block.
    """

    members: "FactoredRows | DenseRows | BlockRows" = field(repr=False)
    blocks: tuple[Tensor, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        return self.members.device

    @property
    def dtype(self) -> torch.dtype:
        return self.members.dtype

    @property
    def nbytes(self) -> int:
        return 0

    def take(self, i: Tensor) -> "BlockRows":
        return replace(self, blocks=self._blocks_at(i))

    def to_float64(self) -> "BlockRows":
        return self

    def gram(self, i: Where = ALL, j: Where = ALL, dtype: torch.dtype = torch.float64) -> Tensor:
        right = self._blocks_at(j)
        if len(right) <= 1 or len(right) * self._width * 8 <= _TILE:
            means = self._write_out(right)
            return torch.cat([self._write_out(tile) @ means.T for tile in self._tiles(i)]).to(dtype)
        return torch.cat([self.gram(i, tile, dtype) for tile in self._cut(j)], 1)

    def squared_norms(self) -> Tensor:
        return torch.cat([self._write_out(tile).square().sum(1) for tile in self._tiles(ALL)])

    squared_parts = squared_norms

    def total(self, i: Where = ALL) -> Tensor:
        return self.combine(i, torch.ones(len(self._blocks_at(i)), device=self.device))

    def combine(self, i: Where, w: Tensor) -> Tensor:
        blocks = self._blocks_at(i)
        sizes = torch.tensor([len(block) for block in blocks], device=w.device)
        weights_of_members = 1 / sizes.double() * w.double()
        return self.members.combine(torch.cat(blocks), weights_of_members.repeat_interleave(sizes))

    def correlate(self, target: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        correlations = self.members.correlate(target, dtype)
        return torch.stack([correlations[block].mean() for block in self.blocks])

    def dense(self) -> Tensor:
        return self._write_out(self.blocks)

    @property
    def _width(self) -> int:
        return self.members.total(slice(0, 1)).numel()

    def _blocks_at(self, i: Where) -> tuple[Tensor, ...]:
        positions = torch.arange(len(self.blocks), device=self.device)[i]
        return tuple(self.blocks[position] for position in positions.tolist())

    def _cut(self, i: Where) -> Iterator[Where]:
        """Cut positions into pieces whose means fit into a tile."""
        return cut(i, len(self), max(1, _TILE // (8 * max(self._width, 1))))

    def _tiles(self, i: Where) -> Iterator[tuple[Tensor, ...]]:
        return (self._blocks_at(piece) for piece in self._cut(i))

    def _write_out(self, blocks: Sequence[Tensor]) -> Tensor:
        """Return the means of blocks, (len(blocks), F) float64."""
        means = torch.empty(len(blocks), self._width, dtype=torch.float64, device=self.device)
        for mean, block in zip(means, blocks, strict=True):
            torch.div(self.members.total(block).flatten(), len(block), out=mean)
        return means
