"""Gradient rows, one an example, kept as factors.

For a linear head z = W h + b, an example's gradient with respect to (W, b) is a sum over its forward
passes of residual x feature outer products, G_i = sum_r a_i^r [h_i^r; 1]^T with a = d loss / d logits.
`FactoredRows` keeps the factors: N (C + D) numbers a pass instead of N C (D + 1).

Sums and inner products are taken in float64, a few thousand rows at a time, whatever the factors are.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from advcore.errors import DataError, one_of, require

KINDS = ("full", "weight", "bias")
_AT_ONCE = 512  # rows that a sum turns to float64 at a time
_TILE = 256 * 2**20  # bytes of block means that are written out at a time

Where = Tensor | slice
ALL = slice(None)


def cut(i: Where, n: int, size: int) -> Iterator[Where]:
    """`i`, positions in 0..n - 1, in pieces of `size`; a slice stays one."""
    if isinstance(i, Tensor):
        yield from i.split(size)
        return
    start, stop, _ = i.indices(n)
    for low in range(start, max(stop, start + 1), size):
        yield slice(low, min(low + size, stop))


@dataclass(frozen=True, kw_only=True)
class FactoredRows:
    """N rows of shape (C, D + 1), (C, D) or (C, 1) for kind "full", "weight" or "bias".

    Parameters
    ----------
    residuals : one (N, C) float tensor a forward pass.
    features : one (N, D) float tensor a forward pass, on the same device.
    kind : what of the head's gradient a row holds.
    release : called after every read; rows that live in a memory-mapped file (`spill.py`) give their pages back.

    Sums and inner products are taken in float64. Raises DataError when shapes disagree.
    """

    residuals: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    kind: str = "full"
    release: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self):
        require(one_of("kind", self.kind, KINDS))
        lengths = {len(part) for part in (*self.residuals, *self.features)}
        if len(self.residuals) != len(self.features) or len(lengths) != 1:
            raise DataError(f"rows need one residual and one feature tensor a pass, all of one length, got {lengths}")

    def __len__(self) -> int:
        return len(self.residuals[0])

    @property
    def device(self) -> torch.device:
        return self.residuals[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Of the widest factor."""
        widest = self.residuals[0].dtype
        for part in (*self.residuals, *self.features):
            widest = torch.promote_types(widest, part.dtype)
        return widest

    @property
    def nbytes(self) -> int:
        """What the factors hold."""
        return sum(part.nbytes for part in (*self.residuals, *self.features))

    def take(self, i: Tensor) -> "FactoredRows":
        """The rows at `i`, in that order, in memory of their own."""
        parts = [tuple(self._read(part, i) for part in side) for side in (self.residuals, self.features)]
        return replace(self, residuals=parts[0], features=parts[1], release=None)

    def output(self, c: int) -> "FactoredRows":
        """Each row's part that belongs to logit `c` alone: (1, D + 1)."""
        return replace(self, residuals=tuple(part[:, c : c + 1] for part in self.residuals))

    def in_float32(self) -> tuple["FactoredRows", float]:
        """The same rows with float32 factors of at most 1, and the power of two that they are to be multiplied by."""
        sides, scale = [], 1.0
        for parts in zip(*self._passes(dtype=torch.promote_types(self.dtype, torch.float32)), strict=True):
            largest = max(float(part.abs().max()) for part in parts)
            own = 2.0 ** math.ceil(math.log2(largest)) if largest > 0 else 1.0
            sides.append(tuple((part / own).float() for part in parts))
            scale *= own
        return FactoredRows(residuals=sides[0], features=sides[1], kind="weight"), scale

    def exact(self) -> "FactoredRows":
        """The same rows with float64 factors as the kind sees them, so that products need not convert them again."""
        both = tuple(zip(*self._passes(), strict=True))
        return FactoredRows(residuals=both[0], features=both[1], kind="weight")

    def gram(self, i: Where = ALL, j: Where = ALL, dtype: torch.dtype = torch.float64) -> Tensor:
        """(len(i), len(j)) inner products <G_i, G_j>, in `dtype`. Cost O(len(i) len(j) (C + D)) a pair of passes."""
        left, right = self._passes(i, dtype), self._passes(j, dtype)
        return sum((a @ b.T).mul_(g @ h.T) for a, g in left for b, h in right)

    def squared_norms(self) -> Tensor:
        """(N,) float64 <G_i, G_i>."""
        return self._each_row(self._norms_of)

    def squared_parts(self) -> Tensor:
        """(N,) float64, squared norms of each pass alone, summed: what rounding is relative to where passes cancel."""
        if len(self.residuals) == 1:
            return self.squared_norms()
        return self._each_row(lambda parts: sum(a.square().sum(1) * g.square().sum(1) for a, g in parts))

    def total(self, i: Where = ALL) -> Tensor:
        """(C, D + 1) float64, the sum of the rows at `i`; all of them by default."""
        return _summed(pair for parts in self._pieces(i) for pair in parts)

    def combine(self, i: Tensor, w: Tensor) -> Tensor:
        """(C, D + 1) float64, sum of w_i G_i."""
        weights = w.double().split(_AT_ONCE)
        pieces = zip(self._pieces(i), weights, strict=True)
        return _summed((a.mul_(own[:, None]), g) for parts, own in pieces for a, g in parts)

    def correlate(self, target: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """(N,) <G_i, target>; `target` as `total` gives it. Cost O(N C D), in `dtype`."""
        target = target.to(dtype)
        return self._each_row(lambda parts: sum(((a @ target) * g).sum(1) for a, g in parts), dtype)

    def inner(self, other: "FactoredRows") -> Tensor:
        """(N,) float64 <G_i, H_i>: each row with the same example's of `other`, as many passes on either side."""
        out = torch.empty(len(self), dtype=torch.float64, device=self.device)
        pieces = zip(out.split(_AT_ONCE), self._pieces(), other._pieces(), strict=True)
        for own, mine, theirs in pieces:
            own.copy_(self._inner_of(mine, theirs))
        return out

    def block_means(self, blocks: Sequence[Tensor]) -> "BlockRows":
        """One row a block of indices: the mean of its members' rows."""
        return BlockRows(members=self, blocks=tuple(blocks))

    def dense(self) -> Tensor:
        """(N, C (D + 1)) float64. For tests: this is what the factors avoid."""
        return sum(a[:, :, None] * g[:, None, :] for a, g in self._passes()).flatten(1)

    @staticmethod
    def _inner_of(mine: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return sum((a * b).sum(1) * (g * h).sum(1) for a, g in mine for b, h in theirs)

    def _norms_of(self, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        return self._inner_of(parts, parts).clamp_min(0)

    def _each_row(self, value: Callable, dtype: torch.dtype = torch.float64) -> Tensor:
        """(N,) `value` of the passes, in memory taken beforehand: kept pieces between freed ones leave holes in it."""
        out = torch.empty(len(self), dtype=dtype, device=self.device)
        for own, parts in zip(out.split(_AT_ONCE), self._pieces(dtype=dtype), strict=True):
            own.copy_(value(parts))
        return out

    def _pieces(self, i: Where = ALL, dtype: torch.dtype = torch.float64) -> Iterator[list[tuple[Tensor, Tensor]]]:
        return (self._passes(piece, dtype) for piece in cut(i, len(self), _AT_ONCE))

    def _passes(self, i: Where = ALL, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
        """Per pass, residuals and features as the kind sees them, in `dtype`."""
        pairs = zip(self.residuals, self.features, strict=True)
        return [(self._read(a, i).to(dtype), self._seen(h, i, dtype)) for a, h in pairs]

    def _read(self, part: Tensor, i: Where) -> Tensor:
        """`part[i]`; from a file, a copy, and the file's pages are given back."""
        if self.release is None:
            return part[i]
        copy = part[i].clone() if isinstance(i, slice) else part[i]
        self.release()
        return copy

    def _seen(self, h: Tensor, i: Where, dtype: torch.dtype) -> Tensor:
        if self.kind == "weight":
            return self._read(h, i).to(dtype)
        if self.kind == "bias":
            size = len(i) if isinstance(i, Tensor) else len(range(*i.indices(len(self))))
            return h.new_ones(size, 1, dtype=dtype)
        own = self._read(h, i)
        seen = own.new_ones(len(own), own.shape[1] + 1, dtype=dtype)
        seen[:, :-1] = own
        return seen


def _summed(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum of a^T g over pairs, in one piece of memory."""
    pairs = iter(pairs)
    a, g = next(pairs)
    out = a.T @ g
    for a, g in pairs:
        out.addmm_(a.T, g)
    return out


@dataclass(frozen=True, kw_only=True)
class DenseRows:
    """N rows written out, `matrix` (N, F) float: scores (F = 1), rows of another kind, and tests.

    Answers as `FactoredRows` does.
    """

    matrix: Tensor

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

    def exact(self) -> "DenseRows":
        return DenseRows(matrix=self.matrix.double())

    def gram(self, i: Where = ALL, j: Where = ALL, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.matrix[i].to(dtype) @ self.matrix[j].to(dtype).T

    def squared_norms(self) -> Tensor:
        return self.matrix.double().square().sum(1)

    def squared_parts(self) -> Tensor:
        return self.squared_norms()

    def total(self, i: Where = ALL) -> Tensor:
        return self.matrix[i].double().sum(0)

    def combine(self, i: Tensor, w: Tensor) -> Tensor:
        return w.double() @ self.matrix[i].double()

    def correlate(self, target: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.matrix.to(dtype) @ target.to(dtype)

    def block_means(self, blocks: Sequence[Tensor]) -> "BlockRows":
        return BlockRows(members=self, blocks=tuple(blocks))

    def dense(self) -> Tensor:
        return self.matrix.double()


@dataclass(frozen=True, kw_only=True)
class BlockRows:
    """One row a block: the mean of its members' rows. Never held written out: a tile of blocks at a time is.

    Parameters
    ----------
    members : the rows that the blocks are of.
    blocks : indices into them, one tensor a block.

    Products are exact, in float64. Cost of `gram` O(N C D) a tile and O(blocks^2 C D); everything else O(N C D).
    """

    members: FactoredRows | DenseRows
    blocks: tuple[Tensor, ...]

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
        return replace(self, blocks=tuple(self.blocks[p] for p in i.tolist()))

    def exact(self) -> "BlockRows":
        return self

    def gram(self, i: Where = ALL, j: Where = ALL, dtype: torch.dtype = torch.float64) -> Tensor:
        right = self._tile(j)
        if len(right) <= 1 or len(right) * self._width * 8 <= _TILE:
            means = self._dense(right)
            return torch.cat([self._dense(tile) @ means.T for tile in self._tiles(i)]).to(dtype)
        return torch.cat([self.gram(i, tile, dtype) for tile in self._positions(j)], 1)

    def squared_norms(self) -> Tensor:
        return torch.cat([self._dense(tile).square().sum(1) for tile in self._tiles(ALL)])

    def squared_parts(self) -> Tensor:
        return self.squared_norms()

    def total(self, i: Where = ALL) -> Tensor:
        chosen = self._tile(i)
        return self.members.combine(torch.cat(chosen), self._shares(chosen))

    def combine(self, i: Tensor, w: Tensor) -> Tensor:
        chosen = self._tile(i)
        sizes = torch.tensor([len(block) for block in chosen], device=w.device)
        return self.members.combine(torch.cat(chosen), self._shares(chosen) * w.double().repeat_interleave(sizes))

    def correlate(self, target: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        own = self.members.correlate(target, dtype)
        return torch.stack([own[block].mean() for block in self.blocks])

    def block_means(self, blocks: Sequence[Tensor]) -> "BlockRows":
        return BlockRows(members=DenseRows(matrix=self.dense()), blocks=tuple(blocks))

    def dense(self) -> Tensor:
        return self._dense(self.blocks)

    @property
    def _width(self) -> int:
        return self.members.total(slice(0, 1)).numel()

    def _tile(self, i: Where) -> tuple[Tensor, ...]:
        return tuple(self.blocks[p] for p in i.tolist()) if isinstance(i, Tensor) else self.blocks[i]

    def _positions(self, i: Where) -> Iterator[Where]:
        return cut(i, len(self), max(1, _TILE // (8 * max(self._width, 1))))

    def _tiles(self, i: Where) -> Iterator[tuple[Tensor, ...]]:
        return (self._tile(piece) for piece in self._positions(i))

    def _dense(self, blocks: Sequence[Tensor]) -> Tensor:
        means = torch.empty(len(blocks), self._width, dtype=torch.float64, device=self.device)
        for mean, block in zip(means, blocks, strict=True):
            torch.div(self.members.total(block).flatten(), len(block), out=mean)
        return means

    @staticmethod
    def _shares(blocks: Sequence[Tensor]) -> Tensor:
        """Each member's share of its block's mean."""
        shares = [torch.full((len(block),), 1 / len(block), dtype=torch.float64) for block in blocks]
        return torch.cat(shares).to(blocks[0].device)


Rows = FactoredRows | DenseRows | BlockRows


def first_not_finite(squared_norms: Tensor) -> int | None:
    """Position of the first row with NaN or infinity, by its norm; None if there is none."""
    finite = torch.isfinite(squared_norms)
    return None if bool(finite.all()) else int((~finite).nonzero()[0])
