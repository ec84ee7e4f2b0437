"""Learning-rate schedules as pure functions: they have nothing to save and nothing to step.

Each has `factor(progress, lr_index)`, which returns what the optimiser's learning rate is multiplied by. `progress` in
[0, 1) is the share of the planned steps done, so smooth schedules span exactly the steps that run. `lr_index` is the
epoch's place in the full run, in which milestones are counted.
"""

import math
from collections.abc import Callable

from advcore.errors import check_at_least, check_within, must, require, unless
from advcore.settings import setting, settings
from advcore.training.timm import TimmSchedule


@settings
class Constant:
    """Keep the same rate throughout."""

    def factor(self, progress: float, lr_index: int) -> float:
        return 1.0


@settings
class MultiStep:
    """Multiply the rate by `gamma` at each milestone.

    Parameters
    ----------
    milestones : epochs of the full run, ascending, above 0; one that is listed twice counts twice.
    gamma : in (0, 1].
    ramp : epochs over which the rate first grows linearly to its full value, >= 0; PAT uses 5.
    """

    milestones: list[int] = setting(unit="epochs")
    gamma: float = setting(default=0.1, unit="of the rate")
    ramp: int = setting(default=0, unit="epochs")

    def __post_init__(self) -> None:
        are_epochs = all(isinstance(milestone, int) and milestone > 0 for milestone in self.milestones)
        ascending = are_epochs and sorted(self.milestones) == list(self.milestones)
        require(
            unless(ascending, must("milestones", "ascending epochs above 0", self.milestones)),
            check_within("gamma", self.gamma, 1e-6, 1),
            check_at_least("ramp", self.ramp, 0),
        )

    def factor(self, progress: float, lr_index: int) -> float:
        ramp = min(1.0, (lr_index + 1) / max(1, self.ramp))
        return ramp * self.gamma ** sum(lr_index >= milestone for milestone in self.milestones)


@settings
class Cosine:
    """Lower the rate from 1 to 0 along half a cosine (Loshchilov and Hutter 2017, eq. 5), after a warm-up.

    Parameters
    ----------
    warm_up : share of the steps in which the rate first grows linearly from 0 to 1, in [0, 1). The cosine takes the
        other steps.
    """

    warm_up: float = setting(default=0.0, unit="share")

    def __post_init__(self) -> None:
        require(check_within("warm_up", self.warm_up, 0, 0.999))

    def factor(self, progress: float, lr_index: int) -> float:
        if progress < self.warm_up:
            return progress / self.warm_up
        return (1 + math.cos(math.pi * (progress - self.warm_up) / (1 - self.warm_up))) / 2


@settings
class OneCycle:
    """Raise the rate to 1 along a cosine, then lower it to almost nothing.

    Parameters
    ----------
    peak : share of the steps before the top, in (0, 1).
    start : factor at the beginning, in [0, 1].
    end : factor at the end, in [0, 1].

    Reference: Smith and Topin (2018). Differs: momentum is constant.
    """

    peak: float = setting(default=0.3, unit="share")
    start: float = setting(default=0.04, unit="of the rate")
    end: float = setting(default=4e-6, unit="of the rate")

    def __post_init__(self) -> None:
        require(
            check_within("peak", self.peak, 0.001, 0.999),
            check_within("start", self.start, 0, 1),
            check_within("end", self.end, 0, 1),
        )

    def factor(self, progress: float, lr_index: int) -> float:
        if progress < self.peak:
            return _interpolate(self.start, 1.0, progress / self.peak)
        return _interpolate(1.0, self.end, (progress - self.peak) / (1 - self.peak))


def _interpolate(start: float, end: float, share: float) -> float:
    """Return the value after a `share` of the way from `start` to `end`, along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@settings
class Cyclic:
    """Raise the rate linearly to 1 at `peak`, then lower it linearly to 0: one cycle, as in Fast AT.

    Parameters
    ----------
    peak : share of the steps before the top, in (0, 1).

    Reference: Wong et al. (2020), section 5.
    """

    peak: float = setting(default=0.5, unit="share")

    def __post_init__(self) -> None:
        require(check_within("peak", self.peak, 0.001, 0.999))

    def factor(self, progress: float, lr_index: int) -> float:
        return min(progress / self.peak, (1 - progress) / (1 - self.peak))


LRSchedule = Constant | MultiStep | Cosine | OneCycle | Cyclic | TimmSchedule


def bind_factor(schedule: LRSchedule, lr: float) -> Callable[[float, int], float]:
    """Return the schedule's factor of a largest rate, which timm's schedules ask for."""
    if isinstance(schedule, TimmSchedule):
        return schedule.bind(lr)
    return schedule.factor
