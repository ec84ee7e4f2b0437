"""The contract of an objective, and the losses that an attack may climb."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from advcore.errors import ConfigError, SettingProblem, check, check_one_of, check_within, require
from advcore.types import check_losses

ASCENTS = ("own", "margin")


class Objective(Protocol):
    """A per-example loss, computed from the logits of one or two forward passes.

    passes : names of its forward passes, "clean" or "adversarial" or both; without the second it is not attacked.
    ascent_needs_clean : whether the loss that its attack climbs is computed from the clean logits.

    One that also takes shares of the classes (B, C) for labels, as CutMix mixes them, says `mixes_labels = True`.
    Where the defaults of its settings do not do, it may have an `example`: settings with which contract tests build it.
    """

    passes: ClassVar[tuple[str, ...]]
    ascent_needs_clean: ClassVar[bool]

    @property
    def loss(self) -> Callable[..., Tensor]:
        """Method of labels (B,), and (B, C) logits by name for each of `passes`, that returns (B,) losses."""

    def bind_ascent(self, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Return the loss of the inner maximisation, as a function of adversarial logits (B, C) to (B,).

        y : (B,) labels. clean : (B, C) clean logits, if `ascent_needs_clean`.
        """


def compute_cross_entropy(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return (B,) the cross-entropy with labels y (B,), of whose mass a share `smoothing` is spread over all classes.

    y may also hold the share of each class (B, C). Classes whose logit is -inf get nothing of what is spread.
    Raises ConfigError for shares of another number of classes. Reference: Szegedy et al. 2016, section 7.
    """
    losses = _compare_with_labels(logits, y)
    if not smoothing:
        return losses
    masked = logits.isneginf()
    log_p = F.log_softmax(logits, 1).masked_fill(masked, 0)
    return (1 - smoothing) * losses - smoothing * log_p.sum(1) / (~masked).sum(1)


def _compare_with_labels(logits: Tensor, y: Tensor) -> Tensor:
    """Return (B,) the cross-entropy of logits (B, C) with labels (B,), or with shares of the classes (B, C)."""
    if y.ndim == 1:
        return F.cross_entropy(logits, y, reduction="none")
    require(check(y.shape == logits.shape, "y", f"shares of {logits.shape[1]} classes", tuple(y.shape)))
    without_part = logits.isneginf() & (y == 0)
    return -(y * F.log_softmax(logits, 1).masked_fill(without_part, 0)).sum(1)


def check_smoothing(smoothing: float) -> SettingProblem | None:
    """Return a problem unless the setting `label_smoothing` is a share in [0, 1)."""
    return check_within("label_smoothing", smoothing, 0, 0.999)


def is_attacked(objective: Objective) -> bool:
    """Return whether the objective looks at attacked images at all."""
    return "adversarial" in objective.passes


def takes_mixed_labels(objective: Objective) -> bool:
    """Return whether the objective takes shares of the classes (B, C) for labels."""
    return getattr(objective, "mixes_labels", False)


def needs_clean(objective: Objective, climbs: str) -> bool:
    """Return whether an attack needs the clean logits; `climbs`, "own" or "margin", names the loss that it climbs."""
    return climbs == "own" and objective.ascent_needs_clean


def compute_losses(objective: Objective, y: Tensor, **logits: Tensor) -> Tensor:
    """Return the objective's losses (B,) from the logits of its passes, by name.

    Raises ConfigError unless they are one float for each label, and lead back to the logits.
    """
    name = type(objective).__name__
    losses = check_losses(objective.loss(y, **logits), y, f"the loss of {name}")
    if not losses.requires_grad and torch.is_grad_enabled() and any(z.requires_grad for z in logits.values()):
        raise ConfigError(f"the loss of {name} must lead back to the logits, got one that has no gradient")
    return losses


def choose_ascent(objective: Objective, climbs: str, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return the loss that an attack asks for by name, as a function of adversarial logits (B, C) to (B,).

    climbs : "own" for the objective's inner maximisation, or "margin". Raises ConfigError for another name.
    """
    require(check_one_of("climbs", climbs, ASCENTS))
    if climbs == "own":
        return partial(_check_ascent, objective.bind_ascent(y, clean), f"bind_ascent of {type(objective).__name__}")
    return partial(compute_margin_loss, y=y)


def _check_ascent(loss: Callable[[Tensor], Tensor], source: str, logits: Tensor) -> Tensor:
    return check_losses(loss(logits), logits, source)


def compute_margin_loss(logits: Tensor, y: Tensor, kappa: float = float("inf")) -> Tensor:
    """Return (B,) max over k != y of z_k - z_y, clipped above at kappa; above 0 means misclassified.

    Reference: Laidlaw et al. 2021 (PAT), eq. 3.
    """
    of_label = logits.gather(1, y[:, None])[:, 0]
    best_other = logits.scatter(1, y[:, None], float("-inf")).amax(1)
    return (best_other - of_label).clamp_max(kappa)
