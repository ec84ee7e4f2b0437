"""What the table of gradients holds: how rows are measured, and what that costs."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from advcore.attacks.base import Attack
from advcore.objectives.base import Objective
from advcore.rows import DenseRows, Rows


@dataclass(frozen=True)
class Measured:
    """Rows of a whole source, in its order, the labels (N,) met on the way, on the CPU, and what fell back."""

    rows: Rows
    labels: Tensor
    events: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gradient:
    """One kind of row.

    measure : (model, source, *, ledger, chunk_size, **what else a selection knows) to Measured.
    averaged : False: measured anew at every selection. True: scores, averaged over the epochs of a training run.
    units : (objective, attack) to the forward and backward passes an example that one measurement takes.
    """

    measure: Callable[..., Measured]
    averaged: bool
    units: Callable[[Objective, Attack | None], int]


class AveragedScores:
    """Adds up scores over the epochs of a run; `rows` is their average, one score an example."""

    def __init__(self):
        self.epochs = 0
        self._total: Tensor | float = 0.0

    def add(self, scores: Tensor) -> None:
        """(N,) scores of one more epoch."""
        self._total, self.epochs = self._total + scores, self.epochs + 1

    @property
    def rows(self) -> DenseRows:
        """(N, 1) the average over the epochs so far."""
        return DenseRows(matrix=(self._total / self.epochs)[:, None])
