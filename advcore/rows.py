"""Gradient rows, one an example, kept as factors.

For a linear head z = W h + b, an example's gradient with respect to (W, b) is a sum over its forward
passes of residual x feature outer products, G_i = sum_r a_i^r [h_i^r; 1]^T with a = d loss / d logits.
`FactoredRows` keeps the factors: N (C + D) numbers a pass instead of N C (D + 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advcore.errors import DataError, one_of, require

KINDS = ("full", "weight", "bias")
_EQUAL = 1e-12  # squared distance over squared norms below which two rows count as equal
_ROUNDING = 1e-14  # the same over squared parts: what is left where passes cancel is rounding


@dataclass(frozen=True, kw_only=True)
class FactoredRows:
    """N rows of shape (C, D + 1), (C, D) or (C, 1) for kind "full", "weight" or "bias".

    Parameters
    ----------
    residuals : one (N, C) float tensor a forward pass.
    features : one (N, D) float tensor a forward pass, on the same device.
    kind : what of the head's gradient a row holds.

    Sums and inner products are taken in float64. Raises DataError when shapes disagree.
    """

    residuals: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    kind: str = "full"

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

    def take(self, i: Tensor) -> "FactoredRows":
        """The rows at `i`, in that order."""
        pick = tuple(part[i] for part in self.residuals), tuple(part[i] for part in self.features)
        return replace(self, residuals=pick[0], features=pick[1])

    def output(self, c: int) -> "FactoredRows":
        """Each row's part that belongs to logit `c` alone: (1, D + 1)."""
        return replace(self, residuals=tuple(part[:, c : c + 1] for part in self.residuals))

    def gram(self, i: Tensor | slice = slice(None), j: Tensor | slice = slice(None)) -> Tensor:
        """(len(i), len(j)) float64 inner products <G_i, G_j>. Cost O(len(i) len(j) (C + D)) a pair of passes."""
        left, right = self._passes(i), self._passes(j)
        return sum((a @ b.T) * (g @ h.T) for a, g in left for b, h in right)

    def squared_norms(self) -> Tensor:
        """(N,) float64 <G_i, G_i>."""
        parts = self._passes()
        return sum((a * b).sum(1) * (g * h).sum(1) for a, g in parts for b, h in parts).clamp_min(0)

    def squared_parts(self) -> Tensor:
        """(N,) float64, squared norms of each pass alone, summed: what rounding is relative to where passes cancel."""
        return sum(a.square().sum(1) * g.square().sum(1) for a, g in self._passes())

    def total(self, i: Tensor | slice = slice(None)) -> Tensor:
        """(C, D + 1) float64, the sum of the rows at `i`; all of them by default."""
        return sum(a.T @ g for a, g in self._passes(i))

    def combine(self, i: Tensor, w: Tensor) -> Tensor:
        """(C, D + 1) float64, sum of w_i G_i."""
        return sum((a * w.double()[:, None]).T @ g for a, g in self._passes(i))

    def correlate(self, target: Tensor) -> Tensor:
        """(N,) float64 <G_i, target>; `target` as `total` gives it. Cost O(N C D)."""
        return sum(((a @ target.double()) * g).sum(1) for a, g in self._passes())

    def block_means(self, blocks: Sequence[Tensor]) -> "DenseRows":
        """One row a block of indices: the mean of its members' rows, flattened."""
        return _block_means(self, blocks)

    def dense(self) -> Tensor:
        """(N, C (D + 1)) float64. For tests: this is what the factors avoid."""
        return sum(a[:, :, None] * g[:, None, :] for a, g in self._passes()).flatten(1)

    def _passes(self, i: Tensor | slice = slice(None)) -> list[tuple[Tensor, Tensor]]:
        """Per pass, residuals and features as the kind sees them, in float64."""
        return [(a[i].double(), self._seen(h[i].double())) for a, h in zip(self.residuals, self.features, strict=True)]

    def _seen(self, h: Tensor) -> Tensor:
        ones = h.new_ones(len(h), 1)
        return {"full": lambda: torch.cat([h, ones], 1), "weight": lambda: h, "bias": lambda: ones}[self.kind]()


@dataclass(frozen=True, kw_only=True)
class DenseRows:
    """N rows written out, (N, F) float: block means, scores (F = 1), and tests."""

    matrix: Tensor

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def take(self, i: Tensor) -> "DenseRows":
        return DenseRows(matrix=self.matrix[i])

    def gram(self, i: Tensor | slice = slice(None), j: Tensor | slice = slice(None)) -> Tensor:
        return self.matrix[i].double() @ self.matrix[j].double().T

    def squared_norms(self) -> Tensor:
        return self.matrix.double().square().sum(1)

    def squared_parts(self) -> Tensor:
        return self.squared_norms()

    def total(self, i: Tensor | slice = slice(None)) -> Tensor:
        return self.matrix[i].double().sum(0)

    def combine(self, i: Tensor, w: Tensor) -> Tensor:
        return w.double() @ self.matrix[i].double()

    def correlate(self, target: Tensor) -> Tensor:
        return self.matrix.double() @ target.double()

    def block_means(self, blocks: Sequence[Tensor]) -> "DenseRows":
        return _block_means(self, blocks)

    def dense(self) -> Tensor:
        return self.matrix.double()


Rows = FactoredRows | DenseRows


def _block_means(rows: Rows, blocks: Sequence[Tensor]) -> DenseRows:
    return DenseRows(matrix=torch.stack([rows.total(block).flatten() / len(block) for block in blocks]))


def first_not_finite(rows: Rows) -> int | None:
    """Position of the first row with NaN or infinity, None if there is none."""
    finite = torch.isfinite(rows.squared_norms())
    return None if bool(finite.all()) else int((~finite).nonzero()[0])


def squared_distances(rows: Rows) -> Tensor:
    """(N, N) float64 squared Euclidean distances; exactly 0 for equal rows, symmetric.

    Through float64 inner products; pairs closer than 1e-6 x norm, or, where a row's passes cancel, than 1e-7 x the
    passes' own norms, are at distance 0: float32 factors can hardly tell them apart. Cost O(N^2 (C + D)) time,
    O(N^2) memory.
    """
    gram, norms = rows.gram(), rows.squared_norms()
    least = torch.maximum(_EQUAL * norms, _ROUNDING * rows.squared_parts())
    squared = norms[:, None] + norms[None, :] - (gram + gram.T)
    squared = torch.where(squared > least[:, None] + least[None, :], squared, torch.zeros_like(squared))
    return squared.fill_diagonal_(0)
