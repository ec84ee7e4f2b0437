"""Regularizers in a run: which runs they cannot be used in."""

from typing import TYPE_CHECKING

from advcore.attacks.base import Attack
from advcore.errors import SettingProblem, must
from advcore.objectives.base import Objective

if TYPE_CHECKING:
    from advcore.training.loop_settings import LoopSettings

_ALONE = {
    "awp": "the weights would move uphill of the penalty, too",
    "cutmix": "a penalty is one image's, with its own start",
}


def find_regularizer_problem(
    training: "LoopSettings", objective: Objective, attack: Attack | None
) -> SettingProblem | None:
    """Return the first reason why a run cannot have its regulariser; None if it can, or if there is none."""
    regularizer = training.regularizer
    if regularizer is None:
        return None
    for setting, reason in _ALONE.items():
        if getattr(training, setting) is not None:
            return must("regularizer", f"null with {setting}", type(regularizer).__name__, reason)
    if regularizer.differentiates_twice and training.speed.compiled:
        way_out = "torch.compile differentiates once: set speed.compiled to null"
        return must("regularizer", "null with speed.compiled", type(regularizer).__name__, way_out)
    if regularizer.differentiates_twice and training.head_epochs:
        reason = "it smooths the loss over weights that are frozen in that phase"
        return must("regularizer", "null with head_epochs", type(regularizer).__name__, reason)
    return regularizer.find_problem(objective, attack)
