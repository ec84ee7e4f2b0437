"""Gradient rows kept as factors.

For a linear head z = W h + b, an example's gradient with respect to (W, b) is a sum over its forward passes of outer
products of residual and feature, G_i = sum_r a_i^r [h_i^r; 1]^T with a = d loss / d logits. `FactoredRows` keeps the
factors: N (C + D) numbers for each pass instead of N C (D + 1).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain, product
from typing import cast

import torch
from torch import Tensor

from advcore.errors import DataError, check_one_of, require
from advcore.rows.written_out import ALL, BlockRows, Where, cut

KINDS = ("full", "weight", "bias")
_AT_ONCE = 512  # rows that a sum turns to float64 at a time

# residuals (n, C) and features (n, F) of one forward pass, whose outer products are its part of n rows
Pass = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class FactoredRows:
    """N rows of shape (C, D + 1), (C, D) or (C, 1) for kind "full", "weight" or "bias".

    Sums and inner products are taken in float64. Raises DataError when shapes disagree.

    Parameters
    ----------
    residuals : one (N, C) float tensor for each forward pass.
    features : one (N, D) float tensor for each forward pass, on the same device.
    kind : which part of the head's gradient a row holds.
    release : called after every read, so that rows in a memory-mapped file (`on_disk.py`) give their pages back.
    """

    residuals: tuple[Tensor, ...] = field(repr=False)
    features: tuple[Tensor, ...] = field(repr=False)
    kind: str = "full"
    release: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        require(check_one_of("kind", self.kind, KINDS))
        lengths = {len(part) for part in self._factors}
        if len(self.residuals) != len(self.features) or len(lengths) != 1:
            raise DataError(f"rows need one residual and one feature tensor per pass, all of one length, got {lengths}")

    def __len__(self) -> int:
        return len(self.residuals[0])

    @property
    def _factors(self) -> tuple[Tensor, ...]:
        return (*self.residuals, *self.features)

    @property
    def device(self) -> torch.device:
        return self.residuals[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the widest factor."""
        return reduce(torch.promote_types, (part.dtype for part in self._factors))

    @property
    def nbytes(self) -> int:
        """Size of the factors in bytes."""
        return sum(part.nbytes for part in self._factors)

    def take(self, i: Tensor) -> "FactoredRows":
        """Return the rows at `i`, in that order, in separate memory."""
        return replace(
            self,
            residuals=tuple(self._read(part, i) for part in self.residuals),
            features=tuple(self._read(part, i) for part in self.features),
            release=None,
        )

    def move_to(self, device: torch.device) -> "FactoredRows":
        """Return the same rows in the memory of a device; the rows themselves if they are there."""
        if self.device == device:
            return self
        residuals = tuple(part.to(device) for part in self.residuals)
        features = tuple(part.to(device) for part in self.features)
        return replace(self, residuals=residuals, features=features, release=None)

    def take_output(self, c: int) -> "FactoredRows":
        """Return the part of each row that belongs to logit `c` alone: (1, D + 1)."""
        return replace(self, residuals=tuple(part[:, c : c + 1] for part in self.residuals))

    def to_float32(self) -> tuple["FactoredRows", float]:
        """Return the same rows with float32 factors of at most 1, and the power of two to multiply them by."""
        sides = self._sides(torch.promote_types(self.dtype, torch.float32))
        powers = [2.0 ** math.ceil(math.log2(max(float(part.abs().max()) for part in side) or 1.0)) for side in sides]
        residuals, features = (
            tuple((part / power).float() for part in side) for side, power in zip(sides, powers, strict=True)
        )
        return FactoredRows(residuals=residuals, features=features, kind="weight"), math.prod(powers)

    def to_float64(self) -> "FactoredRows":
        """Return the same rows with float64 factors as the kind sees them, which products need not convert again."""
        residuals, features = self._sides(torch.float64)
        return FactoredRows(residuals=residuals, features=features, kind="weight")

    def gram(self, i: Where = ALL, j: Where = ALL, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the inner products <G_i, G_j>, (len(i), len(j)) in `dtype`.

        Cost O(len(i) len(j) (C + D)) for each pair of passes.
        """
        return _add_up(
            (a @ b.T).mul_(g @ h.T) for (a, g), (b, h) in product(self._passes(i, dtype), self._passes(j, dtype))
        )

    def squared_norms(self) -> Tensor:
        """Return <G_i, G_i> for each row, (N,) float64."""
        return self._map_rows(_squared_norms)

    def squared_parts(self) -> Tensor:
        """Return the squared norms of each pass alone, summed over passes, (N,) float64.

        Rounding is relative to these where the passes of a row cancel.
        """
        return self._map_rows(_squared_parts)

    def total(self, i: Where = ALL) -> Tensor:
        """Return the sum of the rows at `i`, (C, D + 1) float64; of all rows by default."""
        return _sum_products(chain.from_iterable(self._pieces(i)))

    def combine(self, i: Tensor, w: Tensor) -> Tensor:
        """Return the weighted sum of the rows at `i`, sum of w_i G_i, (C, D + 1) float64."""
        return _sum_products(self._weigh_passes(i, w.double()))

    def _weigh_passes(self, i: Tensor, weights: Tensor) -> Iterator[Pass]:
        for passes, weight in zip(self._pieces(i), weights.split(_AT_ONCE), strict=True):
            for a, g in passes:
                yield a.mul_(weight[:, None]), g

    def correlate(self, target: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return <G_i, target> for each row, (N,) in `dtype`; `target` is shaped as `total` returns it.

        Cost O(N C D).
        """
        target = target.to(dtype)
        return self._map_rows(lambda passes: _add_up(((a @ target) * g).sum(1) for a, g in passes), dtype)

    def block_means(self, blocks: Sequence[Tensor]) -> "BlockRows":
        """Return a row for each block of indices: the mean of its members' rows."""
        return BlockRows(members=self, blocks=tuple(blocks))

    def dense(self) -> Tensor:
        """Return the rows written out, (N, C (D + 1)) float64. For tests: this is what the factors avoid."""
        return _add_up(a[:, :, None] * g[:, None, :] for a, g in self._passes()).flatten(1)

    def _map_rows(self, function: Callable[[list[Pass]], Tensor], dtype: torch.dtype = torch.float64) -> Tensor:
        """Return (N,) values, which `function` computes from the passes of a few rows at a time.

        They are written into memory taken beforehand: pieces kept between ones that are freed would leave holes in it.
        """
        values = torch.empty(len(self), dtype=dtype, device=self.device)
        for piece, passes in zip(values.split(_AT_ONCE), self._pieces(dtype=dtype), strict=True):
            piece.copy_(function(passes))
        return values

    def _pieces(self, i: Where = ALL, dtype: torch.dtype = torch.float64) -> Iterator[list[Pass]]:
        return (self._passes(piece, dtype) for piece in cut(i, len(self), _AT_ONCE))

    def _passes(self, i: Where = ALL, dtype: torch.dtype = torch.float64) -> list[Pass]:
        """Return the passes of the rows at `i`, with features as the kind sees them, in `dtype`."""
        return [
            (self._read(a, i).to(dtype), self._read_features(h, i, dtype))
            for a, h in zip(self.residuals, self.features, strict=True)
        ]

    def _sides(self, dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
        """Return the residuals of all passes, and their features as the kind sees them, in `dtype`."""
        return list(zip(*self._passes(dtype=dtype), strict=True))

    def _read(self, part: Tensor, i: Where) -> Tensor:
        """Return `part[i]`; if it is read from a file, a copy, so that the file's pages can be given back."""
        if self.release is None:
            return part[i]
        copy = part[i].clone() if isinstance(i, slice) else part[i]
        self.release()
        return copy

    def _read_features(self, part: Tensor, i: Where, dtype: torch.dtype) -> Tensor:
        """Return the features at `i` as the kind sees them: with a 1 for the bias, without it, or that 1 alone."""
        features = self._read(part[:, :0] if self.kind == "bias" else part, i)
        if self.kind == "weight":
            return features.to(dtype)
        extended = features.new_ones(len(features), features.shape[1] + 1, dtype=dtype)
        extended[:, :-1] = features
        return extended


def _add_up(parts: Iterable[Tensor]) -> Tensor:
    return cast(Tensor, sum(parts))  # of at least one tensor, so that it is one


def _squared_norms(passes: list[Pass]) -> Tensor:
    return _add_up((a * b).sum(1) * (g * h).sum(1) for (a, g), (b, h) in product(passes, passes)).clamp_min(0)


def _squared_parts(passes: list[Pass]) -> Tensor:
    return _add_up(a.square().sum(1) * g.square().sum(1) for a, g in passes)


def _sum_products(passes: Iterable[Pass]) -> Tensor:
    """Return the sum of a^T g over passes, added up in one piece of memory."""
    passes = iter(passes)
    a, g = next(passes)
    total = a.T @ g
    for a, g in passes:
        total.addmm_(a.T, g)
    return total


def find_first_not_finite(squared_norms: Tensor) -> int | None:
    """Return the position of the first row with NaN or infinity, judged by its norm, or None."""
    positions = (~torch.isfinite(squared_norms)).nonzero()
    return int(positions[0]) if len(positions) else None
