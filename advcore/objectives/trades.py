"""TRADES: clean cross-entropy plus beta times the divergence between clean and attacked predictions."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from advcore.errors import check_positive, require
from advcore.objectives.base import check_smoothing, compute_cross_entropy
from advcore.settings import setting, settings


def measure_divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Return (B,) KL(softmax(clean) || softmax(adversarial)), finite in value and gradient at any logit gap.

    A class whose clean logit is -inf has no part in it.
    """
    masked = clean.isneginf()
    log_p = F.log_softmax(clean, 1).masked_fill(masked, 0)
    log_q = F.log_softmax(adversarial, 1).masked_fill(masked, 0)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


@settings
class Trades:
    """CE(f(x), y) + beta KL(f(x) || f(x_adv)), gradient through both branches; the attack climbs the KL.

    Parameters
    ----------
    beta : weight of the divergence, above 0; 1 / lambda in the paper.
    label_smoothing : share of a label's mass that is spread over all classes in the cross-entropy, in [0, 1).

    Reference: Zhang et al. 2019, eq. 5. Differs: KL instead of the paper's soft-label cross-entropy, as in
    the authors' code.
    """

    beta: float = setting(default=6.0, unit="unit-free")
    label_smoothing: float = setting(default=0.0, unit="share")
    passes: ClassVar[tuple[str, ...]] = ("clean", "adversarial")
    ascent_needs_clean: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(check_positive("beta", self.beta), check_smoothing(self.label_smoothing))

    def loss(self, y: Tensor, *, clean: Tensor, adversarial: Tensor) -> Tensor:
        losses = compute_cross_entropy(clean, y, self.label_smoothing)
        return losses + self.beta * measure_divergence(clean, adversarial)

    def bind_ascent(self, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
        assert clean is not None, "an attack that climbs this loss is given the clean logits (`ascent_needs_clean`)"
        return partial(measure_divergence, clean.detach())
