"""Epoch to full | select | reuse: pure, and written down before anything runs."""

from dataclasses import dataclass

from advcore.apportion import floor_share
from advcore.errors import at_least, counted, must, one_of, require, share, within
from advcore.types import settings

SCHEDULES = ("compressed", "acs")
MOST_EPOCHS = 10_000
"""All of them are planned before the first."""


@dataclass(frozen=True)
class Epoch:
    """One epoch that runs.

    lr_index : its place in the learning-rate schedule, in epochs of the full run. action : what it trains on: "full",
    "select" (a new coreset, then train on it), "reuse" (the last one), or "random" (acs only: a random subset until the
    first selection).
    """

    lr_index: int
    action: str


@settings
class Schedule:
    """Full epochs, then coreset epochs with a new selection every `period`.

    Parameters
    ----------
    epochs : E, epochs of the full run that this one stands for.
    budget : c, share of the data in a coreset, in (0, 1].
    warm_start : kappa, share of E before the first selection, in [0, 1). round(c int(kappa E)) of those epochs run,
        on all data; the others are skipped, so that the work is about c E.
    period : T, coreset epochs from one selection to the next; None selects once.
    schedule : "compressed", or "acs" to select where (epoch mod T) == 0 in the full run's count, on a random subset
        until then.

    With budget 1 all E epochs run on all data.
    Reference: Dolatabadi et al. 2022, algorithm 1 and their code's warm start. Differs: the first selection comes
    with the first coreset epoch, and milestones alone remember the skipped epochs.
    """

    epochs: int
    budget: float = 1.0
    warm_start: float = 0.0
    period: int | None = None
    schedule: str = "compressed"

    def __post_init__(self):
        require(
            at_least("epochs", self.epochs, 1, most=MOST_EPOCHS),
            share("budget", self.budget, "it is the share of the data to keep"),
            *self.problems(self),
        )

    @staticmethod
    def problems(given) -> list[str | None]:
        """What is wrong with the `warm_start`, `period` and `schedule` of `given`."""
        unset = given.schedule == "acs" and not given.period
        return [
            within("warm_start", given.warm_start, 0, 0.999),
            None if given.period is None else at_least("period", given.period, 1, "leave it out to select once"),
            one_of("schedule", given.schedule, SCHEDULES),
            must("period", "set", None, "the acs schedule counts in it") if unset else None,
        ]

    @property
    def first(self) -> int:
        """int(kappa E), the epoch of the full run at which the coreset takes over."""
        return floor_share(self.warm_start, self.epochs)

    @property
    def warm_epochs(self) -> int:
        """Full epochs that run before the first coreset."""
        return round(self.budget * self.first)

    @property
    def length(self) -> int:
        """How many epochs run."""
        return self.epochs if self.budget == 1.0 else self.warm_epochs + self.epochs - self.first

    def plan(self) -> list[Epoch]:
        """Every epoch that runs, in order."""
        if self.budget == 1.0:
            return [Epoch(i, "full") for i in range(self.epochs)]
        warm = [Epoch(i, "full") for i in range(self.warm_epochs)]
        return warm + [Epoch(i, self._action(i)) for i in range(self.first, self.epochs)]

    def _action(self, i: int) -> str:
        if self.schedule == "acs":
            if i % self.period == 0:
                return "select"
            return "reuse" if i // self.period * self.period >= self.first else "random"
        since = i - self.first
        return "select" if since == 0 or (self.period and since % self.period == 0) else "reuse"

    def describe(self) -> str:
        """Describe the plan: "9 full epochs, then 12 at 50 %, selecting at 9 and 15; 21 of 30 epochs run".

        Places count the epochs that run.
        """
        plan = self.plan()
        selecting = [str(i) for i, epoch in enumerate(plan) if epoch.action == "select"]
        full = sum(epoch.action == "full" for epoch in plan)
        if full == len(plan):
            return counted(full, "full epoch")
        on_coreset = len(plan) - full
        parts = f"{counted(full, 'full epoch')}, then {on_coreset}" if full else counted(on_coreset, "epoch")
        places = " and ".join(filter(None, [", ".join(selecting[:-1]), selecting[-1]])) if selecting else "no epoch"
        of = f"; {self.length} of {self.epochs} epochs run" if self.length < self.epochs else ""
        return f"{parts} at {100 * self.budget:g} %, selecting at {places}{of}"
