"""Attack the examples near the decision boundary."""

from typing import ClassVar

from torch import Tensor

from advcore.errors import SettingProblem, check_within
from advcore.minibatch.base import AttackSubset, Seen
from advcore.settings import setting, settings


@settings
class Margin(AttackSubset):
    """Prefer examples by 1 / (|m| + margin_eps), where m = z_y - max over k != y of z_k at the clean image.

    Parameters
    ----------
    margin_eps : keeps an example with m near 0 from taking all the probability; in logits, 1e-12 to 1e6.
    signed : misclassified examples (m < 0) count as m = 0, so they come first instead of last.
    rho, warm_up, clean, draw, correction : see `AttackSubset`.

    Reference: Selective AT (arXiv 2512.22069), margin-based sampling. Differs: margin_eps is 1e-2; in their code
    it is 1e-6.
    """

    margin_eps: float = setting(default=1e-2, unit="logits")
    signed: bool = False
    reads: ClassVar[str | None] = "logits"

    def _check_more(self) -> list[SettingProblem | None]:
        return [check_within("margin_eps", self.margin_eps, 1e-12, 1e6)]

    def compute_preferences(self, seen: Seen) -> Tensor:
        distance = seen.margins.clamp_min(0) if self.signed else seen.margins.abs()
        return 1 / (distance + self.margin_eps)
