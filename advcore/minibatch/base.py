"""The interface of a minibatch rule, which chooses the examples that are attacked or the images that are trained on."""

import math
from typing import ClassVar, NamedTuple, TypeGuard

import torch
from torch import Tensor

from advcore.errors import (
    SettingProblem,
    check_at_least,
    check_one_of,
    check_share,
    check_within,
    must,
    require,
    shorten,
    unless,
)
from advcore.minibatch.systematic import compute_inclusion, draw_systematically
from advcore.rng import Stream
from advcore.rows import FactoredRows
from advcore.settings import setting, settings
from advcore.shares import Amount, divide, floor_share
from advcore.types import check_losses, is_ours

FLOOR = 1e-6  # added to a preference that may be 0, so that every example can be drawn
_LEAST = torch.finfo(torch.float64).tiny  # a preference of 0, as of an infinite margin, in a logarithm
_UNIFORM = 0.1  # share of a corrected draw that is uniform; without it, weights of rarely drawn examples had no bound


class LastVisit(NamedTuple):
    """What training recorded when it last saw each of B examples, at the attacked image, in train mode.

    losses : (B,) cross-entropy -log p_y, whatever the objective. changes : (B,) by how much it differs from the visit
    before; the loss itself after a first visit. ages : (B,) long, visits since the perturbation was last attacked, 0 if
    it was at the last one.
    """

    losses: Tensor
    changes: Tensor
    ages: Tensor


class Seen(NamedTuple):
    """What rules look at: a batch at its clean images, in eval mode.

    margins : (B,) z_y - max over k != y of z_k; below 0 means misclassified.
    residuals : (B, C) d cross-entropy / d logits.
    weights : (B,) of the examples in training. rows : their exact last-layer gradients; None where no rule reads them.
    last_visit : what a rule with `reads = "last_visit"` reads, for which nothing is scored: margins and residuals are
    empty there. None for other rules.
    """

    margins: Tensor
    residuals: Tensor
    weights: Tensor
    rows: FactoredRows | None = None
    last_visit: LastVisit | None = None


class Picked(NamedTuple):
    """The examples that a rule picks of a batch.

    positions : (k,) long, rising. weights : (k,) float; the mean of weight x loss over the picked examples represents
    the mean loss of the batch. entropy : of the draw's probabilities, over log B, in [0, 1].
    """

    positions: Tensor
    weights: Tensor
    entropy: Tensor


def count(part: float, size: int) -> int:
    """Return int(part x size), but at least 1."""
    return max(1, floor_share(part, size))


def normalise_entropy(entropy: Amount, size: int) -> Amount:
    """Return the entropy of `size` probabilities over log(size), in [0, 1]; 1 for a single one, which is even."""
    if size == 1:
        return entropy + 1
    return entropy / math.log(size)


def draw_examples(preferences: Tensor, k: int, generator: Stream, how: str = "multinomial") -> Picked:
    """Pick k of the B examples by `preferences` (B,), at least 0; those of 0 come last, in even chances among them.

    how : "multinomial", successive draws without replacement; "systematic", each with a probability that is known
    beforehand (`compute_inclusion`); or "top", the k largest, ties to the earlier example.

    A multinomial draw adds Gumbel noise to the log-probabilities and keeps the largest k. Given the next largest,
    kappa, an example is kept with probability q = 1 - exp(-exp(log p - kappa)), and sums weighted by 1 / q are
    unbiased.
    Reference: Kool, van Hoof, Welling 2019, sections 3 and 4.2.
    """
    size = len(preferences)
    log_p = preferences.double().clamp_min(_LEAST).log()
    log_p = log_p - log_p.logsumexp(0)
    entropy = normalise_entropy(-(log_p.exp() * log_p).sum(), size)
    if how == "top":
        positions = torch.argsort(log_p, descending=True, stable=True)[:k].sort().values
        return Picked(positions, torch.ones(k, device=log_p.device), entropy)
    if how == "systematic":
        inclusion = compute_inclusion(log_p.exp().clamp_min(_LEAST), k)
        positions = draw_systematically(inclusion, k, generator)
        return Picked(positions, (k / (size * inclusion[positions])).float(), entropy)
    noise = generator.uniform((size, 1))[:, 0].double() + 2.0**-25
    keys = log_p - (-noise.log()).log()
    order = torch.argsort(keys, descending=True, stable=True)
    positions = order[:k].sort().values
    kappa = torch.full_like(keys[:1], float("-inf"))
    if k < size:
        kappa = keys[order[k : k + 1]]
    q = -torch.expm1(-(log_p[positions] - kappa).exp())
    return Picked(positions, (k / (size * q)).float(), entropy)


@settings
class AttackSubset:
    """Settings that are shared by rules that attack only part of each batch.

    The loss is the objective's on the picked examples, attacked, and on the `rest` if it is remembered, plus `clean`
    times the cross-entropy at all clean images of the batch.

    Parameters
    ----------
    rho : share of the batch that is picked, in (0, 1]: int(rho B) examples, at least 1.
    warm_up : epochs in which the pick is uniform, >= 0.
    clean : lambda, weight of the clean loss, in [0, 1e6]; 0 saves its passes.
    draw : "multinomial" (without replacement, by preference), "systematic" (with probability min(1, c preference)) or
        "top" (the largest preferences).
    correction : "none": the mean over the picked, or over the batch as it is trained on. "inverse_probability": drawn
        with a uniform share of 0.1 and weighted so that its expectation is the mean over the batch, all attacked. With
        rest: dropped, not with normalise: batch, which undoes weights.
    rest : "dropped": examples that are not picked are not trained on. "remembered": they are trained on where their
        last attack ended; needs attack.start: remembered. Examples of which nothing is remembered are always attacked,
        and rho is a share of the others (`training.reattack`).

    Cost of a batch: int(rho B) full steps, B forward passes if it scores, 2 B passes if clean > 0. With rest:
    remembered int(rho B) attacks and B updates. Nothing is scored in the warm-up, nor where all are picked.
    Reference: Selective AT (arXiv 2512.22069), algorithm 1; `rest: remembered` is ours.
    """

    rho: float = setting(default=0.25, unit="share")
    warm_up: int = setting(default=2, unit="epochs")
    clean: float = setting(default=0.2, unit="unit-free")
    draw: str = "multinomial"
    correction: str = "none"
    rest: str = "dropped"
    reads: ClassVar[str | None] = None  # "logits" or "features"
    single_image: ClassVar[bool] = False
    needs_validation: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(
            check_share("rho", self.rho),
            check_at_least("warm_up", self.warm_up, 0),
            check_within("clean", self.clean, 0, 1e6),
            check_one_of("draw", self.draw, ("multinomial", "systematic", "top")),
            check_one_of("correction", self.correction, ("none", "inverse_probability")),
            unless(
                self.draw != "top" or self.correction != "inverse_probability",
                must("correction", "none with draw: top", self.correction, "top picks the largest without drawing"),
            ),
            check_one_of("rest", self.rest, ("dropped", "remembered")),
            unless(
                self.rest != "dropped" or self.reads != "last_visit",
                must(
                    "rest", "remembered for a rule that reads the last visit", self.rest, "dropped examples have none"
                ),
            ),
            *self._check_more(),
        )

    def _check_more(self) -> list[SettingProblem | None]:
        """Return what may be wrong with a subclass's own settings."""
        return []

    def describe(self) -> str:
        """Return what a plan says of the rule."""
        share = f"{100 * self.rho:g} % of each batch"
        if is_reattack(self):
            return f"attacking {share} again and reusing the other perturbations"
        return f"attacking {share}"

    def needs_scores(self, epoch: int, size: int) -> bool:
        """Return whether picking from a batch of `size` needs a forward pass."""
        return self.reads != "last_visit" and self.needs_preferences(epoch, size)

    def needs_preferences(self, epoch: int, size: int) -> bool:
        """Return whether the rule reads something to pick from a batch of `size`."""
        return self.reads is not None and epoch >= self.warm_up and count(self.rho, size) < size

    def compute_preferences(self, seen: Seen) -> Tensor:
        """Return a preference (B,) above 0; the larger it is, the likelier an example is picked."""
        raise NotImplementedError

    def _prefer(self, seen: Seen, batch: Tensor) -> Tensor:
        """Return the rule's preferences. Raises ConfigError unless they are one float for each example of the batch.

        Of a rule that is not advcore's own, they must also be finite, and at least 0.
        """
        source = f"the preferences of {type(self).__name__}"
        preferences = check_losses(self.compute_preferences(seen), batch, source)
        if not is_ours(self):
            low, high = torch.aminmax(preferences)
            is_right = bool((low >= 0) & torch.isfinite(high))  # not so for NaN
            require(unless(is_right, must(source, "finite, and at least 0", f"{low:.4g} to {high:.4g}")))
        return preferences

    def pick(self, seen: Seen | None, generator: Stream) -> Picked:
        """Pick some of the B examples to which `generator` is bound; uniformly without `seen`."""
        batch = generator.examples
        size = len(batch)
        k = count(self.rho, size)
        if seen is None:
            picked = draw_examples(torch.ones(size, device=batch.device), k, generator)
        elif self.correction == "none":
            picked = draw_examples(self._prefer(seen, batch), k, generator, self.draw)
        else:
            preferences = self._prefer(seen, batch)
            preferences = (1 - _UNIFORM) * divide(preferences, preferences.sum()) + _UNIFORM / size
            return draw_examples(preferences, k, generator, self.draw)
        return picked._replace(weights=torch.ones_like(picked.weights))


def is_reattack(rule: object) -> TypeGuard[AttackSubset]:
    """Return whether a rule picks what is attacked again, and the others are trained on as remembered."""
    return isinstance(rule, AttackSubset) and rule.rest == "remembered"


@settings
class UpdateSubset:
    """Settings that are shared by rules that train on part of the 2 B images, clean and attacked, of each batch.

    Parameters
    ----------
    p_up : share of the 2 B images that is kept, in (0, 1].

    Each image counts by the objective's loss of a single image, so objectives that compare two are refused.
    """

    p_up: float = setting(default=0.5, unit="share")
    reads: ClassVar[str | None] = None  # "losses"
    single_image: ClassVar[bool] = True
    # not annotated: a subclass may make these settings, which then come in that class's order
    warm_up = 0
    queue = False
    probed = 0
    look = "eval"

    def __post_init__(self) -> None:
        require(check_share("p_up", self.p_up), *self._check_more())

    def _check_more(self) -> list[SettingProblem | None]:
        """Return what may be wrong with a subclass's own settings."""
        return []

    @property
    def needs_validation(self) -> bool:
        """Whether the share that is kept follows a validation accuracy."""
        return False

    @property
    def least(self) -> float:
        """The smallest share that an epoch may keep."""
        return self.p_up

    def describe(self) -> str:
        """Return what a plan says of the rule."""
        return f"training on {100 * self.p_up:g} % of each batch's clean and attacked images"

    def choose_share(self, epoch: int, accuracies: list[dict]) -> float:
        """Return the share that this epoch keeps, given the entries of the epochs before it, which hold accuracies."""
        return self.p_up

    def count_attacked(self, size: int) -> int:
        """Return how many images kept of a batch of `size` are attacked, for a rule that reads nothing."""
        raise NotImplementedError

    def choose_images(self, part: float, losses: Tensor | None, generator: Stream) -> Tensor:
        """Return which images `keep` keeps. Raises ConfigError where a rule from elsewhere keeps what cannot be."""
        kept = self.keep(part, losses, generator)
        if not is_ours(self):
            number = 2 * len(generator.examples)
            positions = [-1, *kept.tolist(), number]
            is_right = kept.dtype == torch.long and len(kept) and positions == sorted({*positions})
            rule = f"some of the positions 0 to {number - 1}, ascending, as torch.int64"
            require(unless(is_right, must(f"what {type(self).__name__} keeps", rule, shorten(str(positions[1:-1])))))
        return kept

    def keep(self, part: float, losses: Tensor | None, generator: Stream) -> Tensor:
        """Return which of the 2 B images are kept: rising positions, the clean images first.

        part : share to keep. losses : (2 B,), for a rule that reads them.
        """
        raise NotImplementedError
