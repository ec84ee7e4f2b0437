"""What each epoch of a run trains on: all data, a new coreset, or the last one; planned before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from advcore.errors import (
    SettingProblem,
    check_at_least,
    check_one_of,
    check_share,
    check_within,
    format_count,
    must,
    require,
    unless,
)
from advcore.settings import setting, settings
from advcore.shares import floor_share

SCHEDULES = ("compressed", "acs", "pool")
MOST_EPOCHS = 10_000  # all are planned before the first one runs


@dataclass(frozen=True)
class Epoch:
    """One epoch that runs.

    lr_index : its place in the learning-rate schedule, in epochs of the full run.
    action : what it trains on: "full" for all data, "select" for a new coreset, "reuse" for the last one, or "random"
    for a random subset (acs only, until the first selection).
    """

    lr_index: int
    action: str


@settings
class When:
    """Select only once choosing can gain enough; before that, coreset epochs train on random subsets of the same size.

    Parameters
    ----------
    headroom : selecting starts at the first planned selection before which an epoch's headroom was below this, in
        (0, 1]. Once started, selection continues.
    """

    headroom: float = setting(default=0.5, unit="share")

    def __post_init__(self) -> None:
        require(check_share("headroom", self.headroom, "it is a ratio of second moments"))

    def is_met(self, headrooms: Sequence[float]) -> bool:
        """Return whether the last of the epochs' headrooms is below the setting; no epoch is not."""
        return bool(headrooms) and headrooms[-1] < self.headroom


class _ScheduleFields(Protocol):
    """What a schedule shares with the settings of a run file that it is made from."""

    @property
    def warm_start(self) -> float: ...

    @property
    def period(self) -> int | None: ...

    @property
    def schedule(self) -> str: ...


@settings
class Schedule:
    """Run full epochs first, then coreset epochs with a new selection every `period` of them.

    Parameters
    ----------
    epochs : E, epochs of the full run that this run replaces.
    budget : c, share of the data in a coreset, in (0, 1].
    warm_start : kappa, share of E before the first selection, in [0, 1). round(c int(kappa E)) of those epochs run,
        on all data; the others are skipped, so that the run costs about c E epochs.
    period : T, coreset epochs from one selection to the next; None selects once.
    schedule : "compressed", or "acs", which selects where (epoch mod T) == 0, in epochs of the full run, and trains on
        a random subset before that; or "pool", for data with a pool, whose images are what is chosen: all E epochs run,
        each with the steps of one on the real data, the first int(kappa E) of them with the whole pool.
    when : holds selections back (`When`); None selects at each of them.

    With budget 1 all E epochs run on all data.
    Reference: Dolatabadi et al. 2022, algorithm 1 and their code's warm start. Differs: the first selection
    comes with the first coreset epoch, and only milestones count the skipped epochs.
    """

    epochs: int
    budget: float = 1.0
    warm_start: float = 0.0
    period: int | None = None
    schedule: str = "compressed"
    when: When | None = None

    def __post_init__(self) -> None:
        require(
            check_at_least("epochs", self.epochs, 1, most=MOST_EPOCHS),
            check_share("budget", self.budget, "it is the share of the data to keep"),
            *self.find_problems(self),
        )

    @staticmethod
    def find_problems(fields: _ScheduleFields) -> list[SettingProblem | None]:
        """Return what is wrong with the `warm_start`, `period` and `schedule` of `fields`, such as a `Schedule`."""
        counts_epochs = fields.schedule != "acs" or fields.period
        return [
            check_within("warm_start", fields.warm_start, 0, 0.999),
            unless(fields.period is None, check_at_least("period", fields.period, 1, "leave it out to select once")),
            check_one_of("schedule", fields.schedule, SCHEDULES),
            unless(counts_epochs, must("period", "set", None, "the acs schedule counts in it")),
        ]

    @property
    def is_beside_pool(self) -> bool:
        """Whether coresets are chosen from a pool, so that they change no epoch's length."""
        return self.schedule == "pool" and self.budget < 1

    @property
    def first(self) -> int:
        """The epoch of the full run at which the coreset takes over: int(kappa E)."""
        return floor_share(self.warm_start, self.epochs)

    @property
    def warm_epochs(self) -> int:
        """How many full epochs run before the first coreset."""
        if self.is_beside_pool:
            return self.first
        return round(self.budget * self.first)

    @property
    def length(self) -> int:
        """How many epochs run."""
        if self.budget == 1.0:
            return self.epochs
        return self.warm_epochs + self.epochs - self.first

    def plan(self) -> list[Epoch]:
        """Return every epoch that runs, in order."""
        if self.budget == 1.0:
            return [Epoch(i, "full") for i in range(self.epochs)]
        return [
            *(Epoch(i, "full") for i in range(self.warm_epochs)),
            *(Epoch(i, self._choose_action(i)) for i in range(self.first, self.epochs)),
        ]

    def list_lengths(self) -> list[float]:
        """Return the length of each epoch that runs, in epochs on all data."""
        length = 1.0 if self.is_beside_pool else self.budget
        return [1.0 if epoch.action == "full" else length for epoch in self.plan()]

    def _choose_action(self, epoch: int) -> str:
        """Return what an epoch of the full run, after the warm start, trains on."""
        counts_from = 0 if self.schedule == "acs" else self.first
        since_selection = (epoch - counts_from) % (self.period or self.epochs)  # without a period, one selects
        if epoch - since_selection < self.first:
            return "random"
        return "reuse" if since_selection else "select"

    def describe(self) -> str:
        """Describe the plan, as in "9 full epochs, then 12 at 50 %, selecting at 9 and 15; 21 of 30 epochs run".

        The places of selections count the epochs that run.
        """
        plan = self.plan()
        full = sum(epoch.action == "full" for epoch in plan)
        if full == len(plan):
            return format_count(full, "full epoch")
        parts = format_count(len(plan) - full, "epoch")
        if full:
            parts = f"{format_count(full, 'full epoch')}, then {len(plan) - full}"
        *earlier, last = [str(i) for i, epoch in enumerate(plan) if epoch.action == "select"] or ["no epoch"]
        places = f"{', '.join(earlier)} and {last}" if earlier else last
        share = f"at {100 * self.budget:g} %"
        if self.is_beside_pool:
            share = f"with {100 * self.budget:g} % of the pool"
        text = f"{parts} {share}, selecting at {places}"
        if self.length < self.epochs:
            text += f"; {self.length} of {self.epochs} epochs run"
        if self.when is not None:
            text += f"; random subsets until headroom is below {self.when.headroom:g}"
        return text
