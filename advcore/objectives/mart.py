"""MART: adversarial training with more weight on the images that are misclassified without attack."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from torch import Tensor

from advcore.errors import check_positive, require
from advcore.objectives.base import check_smoothing, compute_cross_entropy
from advcore.objectives.trades import measure_divergence
from advcore.settings import setting, settings


def compute_log_complement(logits: Tensor, classes: Tensor) -> Tensor:
    """Return (B,) log(1 - p_k), p the softmax of `logits` (B, C), for the class k of each example in `classes` (B,).

    It is finite at any logit gap.
    """
    return logits.scatter(1, classes[:, None], float("-inf")).logsumexp(1) - logits.logsumexp(1)


@settings
class Mart:
    """BCE(f(x_adv), y) + beta KL(f(x) || f(x_adv)) (1 - p_y(x)); the attack climbs the cross-entropy.

    BCE adds to the cross-entropy -log(1 - p_k), k the likeliest class other than the label; gradients flow
    through every part, the factor 1 - p_y(x) included.

    Parameters
    ----------
    beta : weight of the divergence, above 0; lambda in the paper.
    label_smoothing : share of a label's mass that is spread over all classes in the cross-entropy, in [0, 1).

    Reference: Wang et al. 2020, section 3.
    """

    beta: float = setting(default=5.0, unit="unit-free")
    label_smoothing: float = setting(default=0.0, unit="share")
    passes: ClassVar[tuple[str, ...]] = ("clean", "adversarial")
    ascent_needs_clean: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(check_positive("beta", self.beta), check_smoothing(self.label_smoothing))

    def loss(self, y: Tensor, *, clean: Tensor, adversarial: Tensor) -> Tensor:
        rival = adversarial.detach().scatter(1, y[:, None], float("-inf")).argmax(1)
        losses = compute_cross_entropy(adversarial, y, self.label_smoothing)
        boosted = losses - compute_log_complement(adversarial, rival)
        return boosted + self.beta * measure_divergence(clean, adversarial) * compute_log_complement(clean, y).exp()

    def bind_ascent(self, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
        return partial(compute_cross_entropy, y=y, smoothing=self.label_smoothing)
