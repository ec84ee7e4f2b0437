"""Cross-entropy, at the clean image (ordinary training) or at the attacked one (Madry et al. 2018)."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from advcore.objectives.base import CrossEntropyAscent
from advcore.settings import settings


@settings
class Standard(CrossEntropyAscent):
    """Ordinary training: cross-entropy at the clean image, no attack."""

    passes: ClassVar[tuple[str, ...]] = ("clean",)

    def loss(self, y: Tensor, *, clean: Tensor) -> Tensor:
        return F.cross_entropy(clean, y, reduction="none")


@settings
class Pgd(CrossEntropyAscent):
    """Adversarial training: cross-entropy at the attacked image, which the attack climbs.

    Also Fast AT and PAT: the same loss, another attack. Reference: Madry et al. 2018, eq. 2.1.
    """

    passes: ClassVar[tuple[str, ...]] = ("adversarial",)

    def loss(self, y: Tensor, *, adversarial: Tensor) -> Tensor:
        return F.cross_entropy(adversarial, y, reduction="none")
