"""Attack steps as a function of the epoch: cheap attacks while the model is young, or as many as a budget pays for."""

import math
from typing import Any

from advcore.apportion import floor_share
from advcore.errors import at_least, must, positive, require
from advcore.types import settings


@settings
class Steady:
    """The same number of steps in every epoch.

    Parameters
    ----------
    steps : at least 1.
    """

    steps: int

    def __post_init__(self):
        require(at_least("steps", self.steps, 1))

    def at(self, epoch: int, epochs: int) -> int:
        """Steps of the epoch-th of `epochs` that run, from 0."""
        return self.steps


@settings
class Linear:
    """From `first` steps in the first epoch to `last` in the last, along a line, rounded, halves upwards.

    Parameters
    ----------
    first, last : at least 1, either may be the larger.
    """

    first: int
    last: int

    def __post_init__(self):
        require(at_least("first", self.first, 1), at_least("last", self.last, 1))

    def at(self, epoch: int, epochs: int) -> int:
        """Steps of the epoch-th of `epochs` that run, from 0."""
        return math.floor(self.first + (self.last - self.first) * epoch / max(1, epochs - 1) + 0.5)


@settings
class ByBudget:
    """As many steps as `mean` pays for, an epoch on average.

    `first` as long as it must be, then `last`; one epoch between the two takes what is over.

    Parameters
    ----------
    mean : steps an epoch, on average over the epochs that run; never exceeded.
    first, last : at least 1, first <= mean <= last.
    """

    mean: float
    first: int = 1
    last: int = 10

    def __post_init__(self):
        require(
            positive("mean", self.mean),
            at_least("first", self.first, 1),
            at_least("last", self.last, 1),
            *self._order(),
        )

    def _order(self) -> list[str | None]:
        try:
            ordered = self.first <= self.mean <= self.last
        except TypeError:
            return []  # told already
        got = [self.first, self.mean, self.last]
        return [None if ordered else must("first, mean, last", "in rising order", got)]

    def at(self, epoch: int, epochs: int) -> int:
        """Steps of the epoch-th of `epochs` that run, from 0."""
        over = floor_share(self.mean, epochs) - self.first * epochs  # steps beyond `first`, over the whole run
        each = self.last - self.first
        later = epochs - 1 - epoch  # epochs after this one, which are served first
        return self.first + max(0, min(each, over - each * later))


def steps_problem(schedule: Any, attack: Any) -> str | None:
    """Why the attack cannot follow the schedule; None if it can."""
    if schedule is None or hasattr(attack, "steps"):
        return None
    got = "no attack" if attack is None else type(attack).__name__
    return must("attack_steps", "null for an attack that has no steps", got)
