"""What a minibatch rule is: which examples of a batch are attacked, or which images are learned from."""

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from advcore.apportion import floor_share
from advcore.errors import at_least, must, one_of, require, share, within
from advcore.rng import Stream
from advcore.rows import FactoredRows
from advcore.types import settings

DRAWS = ("multinomial", "top")
CORRECTIONS = ("none", "inverse_probability")
FLOOR = 1e-6
"""Added to a preference that may be 0, so that every example can be drawn."""
_UNIFORM = 0.1
"""Share of a corrected draw that is uniform: without it an example that is hardly ever drawn weighs without bound."""


class Seen(NamedTuple):
    """A batch at its clean images, in eval mode: what rules look at.

    margins : (B,) z_y - max over k != y of z_k; below 0 means misclassified.
    residuals : (B, C) d cross-entropy / d logits.
    weights : (B,) of the examples in training. rows : their exact last-layer gradients; None where no rule reads them.
    """

    margins: Tensor
    residuals: Tensor
    weights: Tensor
    rows: FactoredRows | None = None


class Picked(NamedTuple):
    """positions : (k,) long, rising. weights : (k,) float: the mean of weight x loss over the picked stands for the
    mean loss of the batch. entropy : of the draw's probabilities, over log B, in [0, 1]."""

    positions: Tensor
    weights: Tensor
    entropy: Tensor


def count(part: float, size: int) -> int:
    """int(part x size), but one at least."""
    return max(1, floor_share(part, size))


def drawn(preferences: Tensor, k: int, generator: Stream, how: str = "multinomial") -> Picked:
    """k of the B examples, by `preferences` (B,) above 0: the first k of successive draws without replacement, or the k
    largest (ties to the earlier).

    A draw adds Gumbel noise to the log-probabilities and keeps the largest k. Given the next largest, kappa, an example
    is kept with probability q = 1 - exp(-exp(log p - kappa)), and sums weighted by 1 / q are unbiased.
    Reference: Kool, van Hoof, Welling 2019, sections 3 and 4.2.
    """
    size = len(preferences)
    log_p = preferences.double().log()
    log_p = log_p - log_p.logsumexp(0)
    entropy = -(log_p.exp() * log_p).sum() / max(math.log(size), 1e-12)
    if how == "top":
        positions = torch.argsort(log_p, descending=True, stable=True)[:k].sort().values
        return Picked(positions, torch.ones(k, device=log_p.device), entropy)
    noise = generator.uniform((size, 1))[:, 0].double() + 2.0**-25
    keys = log_p - (-noise.log()).log()
    order = torch.argsort(keys, descending=True, stable=True)
    positions = order[:k].sort().values
    kappa = keys[order[k : k + 1]] if k < size else torch.full_like(keys[:1], float("-inf"))
    kept = -torch.expm1(-(log_p[positions] - kappa).exp())
    return Picked(positions, (k / (size * kept)).float(), entropy)


@settings
class AttackSubset:
    """What rules share that attack, and learn from, a part of each batch.

    The loss is the objective's on the picked examples, attacked, plus `clean` times the cross-entropy at all clean
    images of the batch.

    Parameters
    ----------
    rho : share of the batch that is picked, in (0, 1]: int(rho B) examples, one at least.
    warm_up : epochs in which the pick is uniform, >= 0.
    clean : lambda, weight of the clean loss, in [0, 1e6]; 0 saves its passes.
    draw : "multinomial" (without replacement, by preference) or "top" (the largest preferences).
    correction : "none": the mean over the picked. "inverse_probability": drawn with a uniform share of 0.1 and weighted
        so that its expectation is the mean over the batch; not with normalise: batch, which undoes weights.

    Cost of a batch: int(rho B) full steps, B forward passes if it scores, 2 B passes if clean > 0. Nothing is scored in
    the warm-up, nor where all are picked. Reference: Selective AT (arXiv 2512.22069), algorithm 1.
    """

    rho: float = 0.25
    warm_up: int = 2
    clean: float = 0.2
    draw: str = "multinomial"
    correction: str = "none"
    reads: ClassVar[str | None] = None  # "logits" or "features"
    single_image: ClassVar[bool] = False
    needs_validation: ClassVar[bool] = False

    def __post_init__(self):
        top = self.draw == "top" and self.correction != "none"
        require(
            share("rho", self.rho),
            at_least("warm_up", self.warm_up, 0),
            within("clean", self.clean, 0, 1e6),
            one_of("draw", self.draw, DRAWS),
            one_of("correction", self.correction, CORRECTIONS),
            must("correction", "none with draw: top", self.correction, "the largest are not drawn") if top else None,
            *self._more_problems(),
        )

    def _more_problems(self) -> list[str | None]:
        """What a subclass's own settings may have wrong."""
        return []

    def describe(self) -> str:
        """For the plan."""
        return f"attacking {100 * self.rho:g} % of each batch"

    def scores(self, epoch: int, size: int) -> bool:
        """Whether a batch of `size` has to be looked at to pick from it."""
        return self.reads is not None and epoch >= self.warm_up and count(self.rho, size) < size

    def preferences(self, seen: Seen) -> Tensor:
        """(B,) above 0: the more, the likelier to be picked."""
        raise NotImplementedError

    def pick(self, seen: Seen | None, generator: Stream) -> Picked:
        """Of the B examples that `generator` is bound to; uniform without `seen`."""
        size, corrected = len(generator.indices), seen is not None and self.correction != "none"
        wanted = torch.ones(size, device=generator.indices.device) if seen is None else self.preferences(seen)
        if corrected:
            wanted = (1 - _UNIFORM) * wanted / wanted.sum() + _UNIFORM / size
        picked = drawn(wanted, count(self.rho, size), generator, "multinomial" if seen is None else self.draw)
        return picked if corrected else picked._replace(weights=torch.ones_like(picked.weights))


@settings
class UpdateSubset:
    """What rules share that learn from a part of the 2 B images, clean and attacked, of each batch.

    Parameters
    ----------
    p_up : share of the 2 B images that is kept, in (0, 1].

    Each image counts by the objective's loss of a single image, so objectives that compare two are refused.
    """

    p_up: float = 0.5
    reads: ClassVar[str | None] = None  # "losses"
    single_image: ClassVar[bool] = True
    warm_up: ClassVar[int] = 0
    queue: ClassVar[bool] = False
    probed: ClassVar[int] = 0
    needs_validation: ClassVar[bool] = False

    def __post_init__(self):
        require(share("p_up", self.p_up), *self._more_problems())

    def _more_problems(self) -> list[str | None]:
        """What a subclass's own settings may have wrong."""
        return []

    @property
    def least(self) -> float:
        """The smallest share that an epoch may keep."""
        return self.p_up

    def describe(self) -> str:
        """For the plan."""
        return f"learning from {100 * self.p_up:g} % of each batch's clean and attacked images"

    def share(self, epoch: int, accuracies: list[dict]) -> float:
        """P of this epoch, from the epochs' validation accuracies before it."""
        return self.p_up

    def attacked(self, size: int) -> int:
        """How many of the images that are kept of a batch of `size` are attacked, where the rule reads nothing."""
        raise NotImplementedError

    def keep(self, part: float, losses: Tensor | None, generator: Stream) -> Tensor:
        """Rising positions among the 2 B images, the clean ones first; `losses` (2 B,) where the rule reads them."""
        raise NotImplementedError
