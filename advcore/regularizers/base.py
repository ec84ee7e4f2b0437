"""The contract of a regulariser: a penalty for each example, which a training step adds to the objective's losses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor

from advcore.attacks.base import Attack
from advcore.errors import SettingProblem, check_positive, must, require
from advcore.objectives.base import Objective, is_attacked
from advcore.rng import Stream
from advcore.runtime.counted import CountedModel
from advcore.settings import setting, settings
from advcore.types import check_losses
from advcore.work import Work


@dataclass(frozen=True, kw_only=True)
class Examples:
    """B examples of a training step, as a regulariser sees them.

    clean : (B, C, H, W) images. y : (B,) labels. starts : (B, C, H, W), where the attack starts; None unless the
    regulariser needs them. objective, attack : of the step; the attack's ball grows where the run has a ramp.
    stream : of random numbers, bound to the examples.
    """

    clean: Tensor
    y: Tensor
    starts: Tensor | None
    objective: Objective
    attack: Attack
    stream: Stream


class HasStart(Protocol):
    """An attack with a single start, which can be found before it is called."""

    def find_start(self, x: Tensor, generator: Stream) -> Tensor:
        """Return the points (B, C, H, W) at which a call takes its first gradient."""


@settings
class Regularizer(ABC):
    """Frozen settings; `penalize` returns a penalty (B,) for each example, of which the step adds `weight` times.

    Parameters
    ----------
    weight : of the penalty relative to the objective's loss, above 0.

    needs_starts : whether it reads where the attack started, which takes an attack with a single start.
    single_image : whether it takes the loss of an image, and so an objective that has one (`passes` of length 1).
    differentiates_twice : whether it differentiates a gradient, which a compiled model does not support.
    """

    weight: float = setting(default=1.0, unit="unit-free")
    needs_starts: ClassVar[bool] = False
    single_image: ClassVar[bool] = False
    differentiates_twice: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(check_positive("weight", self.weight))

    @abstractmethod
    def penalize(self, model: CountedModel, examples: Examples, logits: Mapping[str, Tensor]) -> Tensor:
        """Return penalties (B,), in the graph of the model's parameters; `model` is in train mode, and counts passes.

        logits : (B, classes) of the objective's own passes, by name, so that no pass is done twice.
        """

    @abstractmethod
    def plan(self) -> Work:
        """Count the passes per example in addition to the objective's own."""

    def find_problem(self, objective: Objective, attack: Attack | None) -> SettingProblem | None:
        """Return why it cannot be used with this objective and attack, as a problem with `regularizer`, or None."""
        name = type(objective).__name__.lower()
        if attack is None or not is_attacked(objective):
            return must("regularizer", "null for an objective that is not attacked", name)
        if self.single_image and len(objective.passes) > 1:
            rule = "null for an objective that has no loss of a single image"
            return must("regularizer", rule, name, "use pgd, or prior_guided")
        if self.needs_starts and not (hasattr(attack, "find_start") and attack.restarts == 1):
            rule = "null for an attack without a single start"
            return must("regularizer", rule, type(attack).__name__, "use linf_pgd, l2_pgd or fgsm_mep with one restart")
        return None


def describe_examples(
    regularizer: Regularizer, objective: Objective, attack: Attack | None, x: Tensor, y: Tensor, stream: Stream
) -> Examples:
    """Describe a step's examples to its regulariser, before the step attacks: a memory of starts then moves on."""
    assert attack is not None, "`find_problem` refuses an objective that is not attacked"
    starts = None
    if regularizer.needs_starts:
        with torch.no_grad():
            starts = cast(HasStart, attack).find_start(x, stream)
    return Examples(clean=x, y=y, starts=starts, objective=objective, attack=attack, stream=stream)


def compute_penalties(
    regularizer: Regularizer, model: CountedModel, examples: Examples, logits: Mapping[str, Tensor]
) -> Tensor:
    """Return (B,) what is added to the losses: the penalties, times their weight.

    Raises ConfigError for penalties that are not one float for each example.
    """
    penalties = regularizer.penalize(model, examples, logits)
    source = f"the penalty of {type(regularizer).__name__}"
    return regularizer.weight * check_losses(penalties, examples.clean, source)
