"""Attack steps as a function of the epoch: cheaper attacks early in training, or as many steps as a budget allows.

Each schedule has `count_steps(epoch, epochs)`, which returns the attack steps of an epoch, counted from 0, of `epochs`
that run.
"""

import math

from advcore.attacks.base import Attack
from advcore.errors import SettingProblem, check, check_at_least, check_positive, must, require
from advcore.settings import setting, settings
from advcore.shares import floor_share


@settings
class Steady:
    """Use the same number of steps in every epoch.

    Parameters
    ----------
    steps : at least 1.
    """

    steps: int = setting(unit="steps")

    def __post_init__(self) -> None:
        require(check_at_least("steps", self.steps, 1))

    def count_steps(self, epoch: int, epochs: int) -> int:
        return self.steps


@settings
class Linear:
    """Go linearly from `first` steps in the first epoch to `last` in the last, rounded, halves upwards.

    Parameters
    ----------
    first, last : at least 1, either may be the larger.
    """

    first: int = setting(unit="steps")
    last: int = setting(unit="steps")

    def __post_init__(self) -> None:
        require(check_at_least("first", self.first, 1), check_at_least("last", self.last, 1))

    def count_steps(self, epoch: int, epochs: int) -> int:
        return math.floor(self.first + (self.last - self.first) * epoch / max(1, epochs - 1) + 0.5)


@settings
class ByBudget:
    """Use as many steps as an average of `mean` per epoch allows.

    The run starts with `first` steps and changes to `last` as early as the average allows; one epoch between the two
    takes the steps that are left over.

    Parameters
    ----------
    mean : steps per epoch, on average over the epochs that run; never exceeded.
    first, last : at least 1, first <= mean <= last.
    """

    mean: float = setting(unit="steps")
    first: int = setting(default=1, unit="steps")
    last: int = setting(default=10, unit="steps")

    def __post_init__(self) -> None:
        steps = [self.first, self.mean, self.last]
        require(
            check_positive("mean", self.mean),
            check_at_least("first", self.first, 1),
            check_at_least("last", self.last, 1),
            check(self.first <= self.mean <= self.last, "first, mean, last", "in rising order", steps),
        )

    def count_steps(self, epoch: int, epochs: int) -> int:
        extra = floor_share(self.mean, epochs) - self.first * epochs  # steps beyond `first`, over the whole run
        extra_per_epoch = self.last - self.first
        later_epochs = epochs - 1 - epoch  # which get their extra steps before this one
        return self.first + max(0, min(extra_per_epoch, extra - extra_per_epoch * later_epochs))


StepSchedule = Steady | Linear | ByBudget


def find_steps_problem(schedule: StepSchedule | None, attack: Attack | None) -> SettingProblem | None:
    """Return why the attack cannot follow the schedule; None if it can."""
    if schedule is None or hasattr(attack, "steps"):
        return None
    name = "no attack" if attack is None else type(attack).__name__
    return must("attack_steps", "null for an attack that has no steps", name)
