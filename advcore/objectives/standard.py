"""Cross-entropy, at the clean image (ordinary training) or at the attacked one (Madry et al. 2018)."""

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from advcore.settings import settings


@settings
class Standard:
    """Ordinary training: cross-entropy at the clean image, no attack."""

    passes: ClassVar[tuple[str, ...]] = ("clean",)
    ascent_needs_clean: ClassVar[bool] = False

    def loss(self, y: Tensor, *, clean: Tensor) -> Tensor:
        return F.cross_entropy(clean, y, reduction="none")

    def bind_ascent(self, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda logits: self.loss(y, clean=logits)


@settings
class Pgd:
    """Adversarial training: cross-entropy at the attacked image, which the attack climbs.

    Also Fast AT and PAT: the same loss, another attack. Reference: Madry et al. 2018, eq. 2.1.
    """

    passes: ClassVar[tuple[str, ...]] = ("adversarial",)
    ascent_needs_clean: ClassVar[bool] = False

    def loss(self, y: Tensor, *, adversarial: Tensor) -> Tensor:
        return F.cross_entropy(adversarial, y, reduction="none")

    def bind_ascent(self, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda logits: self.loss(y, adversarial=logits)
