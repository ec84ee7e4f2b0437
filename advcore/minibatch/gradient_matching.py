"""Attack the examples whose gradient points where the batch's does."""

from typing import ClassVar

import torch
from torch import Tensor

from advcore.minibatch.base import FLOOR, AttackSubset, Seen
from advcore.rows import FactoredRows
from advcore.settings import settings

_DELTA = 1e-12  # added to the product of norms, which may be 0


def measure_cosines(rows: FactoredRows, weights: Tensor | None = None) -> Tensor:
    """Return the cosine (B,) float64 of each row with the weighted sum of all rows; 0 for a zero row. Cost O(B C D)."""
    total = rows.total() if weights is None else rows.combine(torch.arange(len(rows), device=rows.device), weights)
    return rows.correlate(total) / (rows.squared_norms().sqrt() * total.norm() + _DELTA)


@settings
class GradientMatching(AttackSubset):
    """Prefer examples by max(cos(g_i, g), 0), with exact last-layer gradients of the clean cross-entropy.

    g_i is the example's gradient and g the batch's, with its weights; both are computed from factors.
    Settings: see `AttackSubset`. Cost: one forward pass, no backward pass.
    Reference: Selective AT (arXiv 2512.22069), gradient-matching sampling. Differs: the gradient of the last layer
    alone; a floor of 1e-6.
    """

    reads: ClassVar[str | None] = "features"

    def compute_preferences(self, seen: Seen) -> Tensor:
        assert seen.rows is not None, "this rule reads features"
        return measure_cosines(seen.rows, seen.weights).clamp_min(0) + FLOOR


@settings
class ResidualNorm(AttackSubset):
    """Prefer examples by ||softmax(z) - onehot(y)||_2 at the clean image, as in Selective AT's code.

    The code calls this rule gradient matching.

    Settings: see `AttackSubset`. Differs: a floor of 1e-6.
    """

    reads: ClassVar[str | None] = "logits"

    def compute_preferences(self, seen: Seen) -> Tensor:
        return seen.residuals.double().norm(dim=1) + FLOOR
