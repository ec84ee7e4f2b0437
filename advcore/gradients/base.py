"""What the table of gradients holds: how rows are measured, and what that costs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from advcore.adversary import passes
from advcore.attacks.base import Attack
from advcore.objectives.base import Objective
from advcore.rows import DenseRows, Rows


@dataclass(frozen=True)
class Measured:
    """Rows of a whole source, in its order, the labels (N,) long met on the way, on the CPU, and `events`: what fell
    back.

    Of several processes, the first may be the only one that has rows and labels; None in the others.
    """

    rows: Rows | None
    labels: Tensor | None
    events: tuple[str, ...] = ()


class Collector(Protocol):
    """Scores over the epochs of a run; `rows` (N, 1) is what they come to so far."""

    epochs: int

    def add(self, scores: Tensor) -> None:
        """(N,) scores of one more epoch."""

    @property
    def rows(self) -> DenseRows:
        """(N, 1) float64."""

    def state(self) -> dict:
        """All of it, for a checkpoint."""

    def restore(self, state: dict) -> None:
        """What `state` gave."""


@dataclass(frozen=True)
class Gradient:
    """One kind of row.

    about : what it is, in a line.
    measure : (model, source, *, ledger, chunk_size, **what else a selection knows) to Measured.
    units : (objective, attack) to the forward and backward passes an example that one measurement takes.
    collect : None: measured anew at every selection. Else what makes scores of one score an epoch of a training run.
    attacked : whether it looks at attacked images, and so takes an objective that is attacked.
    one_number : whether a row is one number, which takes no memory to speak of.
    """

    about: str
    measure: Callable[..., Measured]
    units: Callable[[Objective, Attack | None], int]
    collect: Callable[[], Collector] | None = None
    attacked: bool = False
    one_number: bool = True

    @property
    def averaged(self) -> bool:
        """Whether it is scores over a training run."""
        return self.collect is not None


def clean_and_attacked(
    name: str, about: str, measure: Callable[..., Measured], units: int, collect: Callable[[], Collector] | None
) -> dict[str, Gradient]:
    """A score at clean images, for `units` passes an example; and at attacked ones, as `adversarial_NAME`, where
    `measure` is also given `attacked=True`."""
    return {
        name: Gradient(f"{about}; clean", measure, lambda objective, attack: units, collect),
        f"adversarial_{name}": Gradient(
            f"{about}; attacked",
            partial(measure, attacked=True),
            lambda objective, attack: passes(objective, attack) + units,
            collect,
            attacked=True,
        ),
    }


class AveragedScores:
    """The average over epochs."""

    def __init__(self):
        self.epochs = 0
        self._total: Tensor | float = 0.0

    def add(self, scores: Tensor) -> None:
        """(N,) scores of one more epoch."""
        self._total, self.epochs = self._total + scores, self.epochs + 1

    def state(self) -> dict:
        return {"epochs": self.epochs, "total": self._total}

    def restore(self, state: dict) -> None:
        self.epochs, self._total = state["epochs"], state["total"]

    @property
    def rows(self) -> DenseRows:
        """(N, 1) the average over the epochs so far."""
        return DenseRows(matrix=(self._total / self.epochs)[:, None])


class Forgetting:
    """How often an example that was right is wrong an epoch later, from (N,) 1 where right, 0 where wrong; one that
    never was right counts as forgotten in every epoch.

    Reference: Toneva et al. 2019, section 2, whose forgetting events are counted at each presentation. Differs: once an
    epoch, on the plain view.
    """

    def __init__(self):
        self.epochs = 0
        self._before = self._learned = self._count = torch.zeros(())

    def add(self, scores: Tensor) -> None:
        """(N,) 1 where the example is right in one more epoch."""
        right = scores > 0.5
        if self.epochs == 0:
            self._before = self._learned = torch.zeros_like(right)
            self._count = torch.zeros_like(scores, dtype=torch.float64)
        self._count = self._count + (self._before & ~right)
        self._before, self._learned, self.epochs = right, self._learned | right, self.epochs + 1

    def state(self) -> dict:
        return {"epochs": self.epochs, "before": self._before, "learned": self._learned, "count": self._count}

    def restore(self, state: dict) -> None:
        self.epochs = state["epochs"]
        self._before, self._learned, self._count = state["before"], state["learned"], state["count"]

    @property
    def rows(self) -> DenseRows:
        """(N, 1) the count so far; for examples never learned, the number of epochs."""
        never = torch.full_like(self._count, float(self.epochs))
        return DenseRows(matrix=torch.where(self._learned, self._count, never)[:, None])
