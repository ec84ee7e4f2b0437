"""Attack the examples whose gradient points where the batch's does."""

from typing import ClassVar

from torch import Tensor

from advcore.minibatch.base import FLOOR, AttackSubset, Seen
from advcore.rows import FactoredRows
from advcore.types import settings

_DELTA = 1e-12  # added to the product of norms


def cosines(rows: FactoredRows) -> Tensor:
    """(B,) float64: of each row with the sum of all; 0 for a zero row. Cost O(B C D)."""
    total = rows.total()
    return rows.correlate(total) / (rows.squared_norms().sqrt() * total.norm() + _DELTA)


@settings
class GradientMatching(AttackSubset):
    """Preference max(cos(g_i, g), 0): g_i the exact last-layer gradient of the clean cross-entropy, g the batch's.

    From factors: one forward pass, no backward pass. Settings: see `AttackSubset`.
    Reference: Selective AT (arXiv 2512.22069), gradient-matching sampling. Differs: the gradient of the last layer
    alone; a floor of 1e-6.
    """

    reads: ClassVar[str | None] = "features"

    def preferences(self, seen: Seen) -> Tensor:
        return cosines(FactoredRows(residuals=(seen.residuals,), features=(seen.features,))).clamp_min(0) + FLOOR


@settings
class ResidualNorm(AttackSubset):
    """Preference ||softmax(z) - onehot(y)||_2 at the clean image: what Selective AT's code does under the name of
    gradient matching.

    Settings: see `AttackSubset`. Differs: a floor of 1e-6.
    """

    reads: ClassVar[str | None] = "logits"

    def preferences(self, seen: Seen) -> Tensor:
        return seen.residuals.double().norm(dim=1) + FLOOR
