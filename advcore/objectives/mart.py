"""MART: adversarial training that leans on the images which are already misclassified."""

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from advcore.errors import positive, require
from advcore.objectives.trades import divergence
from advcore.types import settings


def log_rest(logits: Tensor, classes: Tensor) -> Tensor:
    """(B,) log of the probability of all classes but one each; `classes` (B,). Finite at any logit gap."""
    return logits.scatter(1, classes[:, None], float("-inf")).logsumexp(1) - logits.logsumexp(1)


@settings
class Mart:
    """BCE(f(x_adv), y) + beta KL(f(x) || f(x_adv)) (1 - p_y(x)); the attack climbs the cross-entropy.

    BCE adds to the cross-entropy -log(1 - p_k), k the likeliest class beside the label; gradients flow through every
    part, the factor 1 - p_y(x) included.

    Parameters
    ----------
    beta : weight of the divergence, above 0; lambda of the paper.

    Reference: Wang et al. 2020, section 3.
    """

    beta: float = 5.0
    passes: ClassVar[tuple[str, ...]] = ("clean", "adversarial")
    own_needs_clean: ClassVar[bool] = False

    def __post_init__(self):
        require(positive("beta", self.beta))

    def loss(self, y: Tensor, *, clean: Tensor, adversarial: Tensor) -> Tensor:
        rival = adversarial.detach().scatter(1, y[:, None], float("-inf")).argmax(1)
        boosted = F.cross_entropy(adversarial, y, reduction="none") - log_rest(adversarial, rival)
        return boosted + self.beta * divergence(clean, adversarial) * log_rest(clean, y).exp()

    def own(self, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda logits: F.cross_entropy(logits, y, reduction="none")
