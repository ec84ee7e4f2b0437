"""Cross-entropy, at the clean image (ordinary training) or at the attacked one (Madry et al. 2018)."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from advcore.errors import require
from advcore.objectives.base import check_smoothing, compute_cross_entropy
from advcore.settings import setting, settings


@settings
class Standard:
    """Ordinary training: cross-entropy at the clean image, no attack.

    Parameters
    ----------
    label_smoothing : share of a label's mass that is spread over all classes, in [0, 1).
    """

    label_smoothing: float = setting(default=0.0, unit="share")
    passes: ClassVar[tuple[str, ...]] = ("clean",)
    ascent_needs_clean: ClassVar[bool] = False
    mixes_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(check_smoothing(self.label_smoothing))

    def loss(self, y: Tensor, *, clean: Tensor) -> Tensor:
        return compute_cross_entropy(clean, y, self.label_smoothing)

    def bind_ascent(self, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda logits: self.loss(y, clean=logits)


@settings
class Pgd:
    """Adversarial training: cross-entropy at the attacked image, which the attack climbs.

    Also Fast AT and PAT: the same loss, another attack. Reference: Madry et al. 2018, eq. 2.1.

    Parameters
    ----------
    label_smoothing : share of a label's mass that is spread over all classes, in [0, 1). The attack climbs the same
        loss.
    """

    label_smoothing: float = setting(default=0.0, unit="share")
    passes: ClassVar[tuple[str, ...]] = ("adversarial",)
    ascent_needs_clean: ClassVar[bool] = False
    mixes_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(check_smoothing(self.label_smoothing))

    def loss(self, y: Tensor, *, adversarial: Tensor) -> Tensor:
        return compute_cross_entropy(adversarial, y, self.label_smoothing)

    def bind_ascent(self, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda logits: self.loss(y, adversarial=logits)
