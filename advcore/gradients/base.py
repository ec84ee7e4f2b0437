"""The contract of the table of gradients: how rows are measured, and what that costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advcore.adversary import count_passes
from advcore.attacks.base import Attack
from advcore.objectives.base import Objective
from advcore.rows import DenseRows, Rows


@dataclass(frozen=True)
class Measurement:
    """The rows of a whole source, in its order, and the labels (N,) long, on the CPU.

    `events` say, one line each, what had to be done otherwise, such as smaller chunks when memory ran out. With several
    processes, the first may be the only one that has rows and labels; they are None in the others.
    """

    rows: Rows | None
    labels: Tensor | None
    events: tuple[str, ...] = ()

    def read(self) -> tuple[Rows, Tensor]:
        """Return the rows, and the labels on the rows' device, in a process that has them."""
        assert self.rows is not None and self.labels is not None, "only the first process may be without them"
        return self.rows, self.labels.to(self.rows.device)


class Collector:
    """Collects the scores of each epoch of a run; `rows` (N, 1) float64 combines those so far.

    A subclass stores everything in attributes, which are what a checkpoint holds.
    """

    def __init__(self):
        self.epochs = 0

    def add(self, scores: Tensor) -> None:
        """Take in the (N,) scores of one more epoch."""

    @property
    def rows(self) -> DenseRows:
        """Return (N, 1) float64, the scores of the run so far."""
        raise NotImplementedError

    def state(self) -> dict[str, object]:
        """Return everything collected, for a checkpoint."""
        return dict(vars(self))

    def restore(self, state: Mapping[str, object]) -> None:
        """Replace everything collected by what `state` returned."""
        for name in vars(self):
            setattr(self, name, state[name])


@dataclass(frozen=True)
class Gradient:
    """One kind of row.

    about : what it is, in one line.
    measure : (model, source, *, ledger, chunk_size, **other settings of a selection) to Measured.
    units : (objective, attack) to the forward and backward passes per example that one measurement takes.
    collect : what makes an object that collects scores over the epochs of a training run; None: rows are measured anew
        at every selection.
    attacked : whether it looks at attacked images, and so takes an objective that is attacked.
    one_number : whether a row is one number, which takes next to no memory.
    """

    about: str
    measure: Callable[..., Measurement]
    units: Callable[[Objective, Attack | None], int]
    collect: Callable[[], Collector] | None = None
    attacked: bool = False
    one_number: bool = True

    @property
    def averaged(self) -> bool:
        """Whether its rows are scores collected over a training run."""
        return self.collect is not None


def define_clean_and_attacked(
    name: str,
    about: str,
    *,
    measure: Callable[..., Measurement],
    score_passes: int,
    collect: Callable[[], Collector] | None = None,
) -> dict[str, Gradient]:
    """Define a score twice: at clean images, as NAME, and at attacked ones, as adversarial_NAME.

    measure : as in `Gradient`; it is also given `attacked=True` for the second.
    score_passes : forward and backward passes per example that the score itself takes.
    """
    return {
        name: Gradient(
            about=f"{about}; clean",
            measure=measure,
            units=partial(_count_units, score_passes, attacked=False),
            collect=collect,
        ),
        f"adversarial_{name}": Gradient(
            about=f"{about}; attacked",
            measure=partial(measure, attacked=True),
            units=partial(_count_units, score_passes, attacked=True),
            collect=collect,
            attacked=True,
        ),
    }


def _count_units(score_passes: int, objective: Objective, attack: Attack | None, *, attacked: bool) -> int:
    return score_passes + count_passes(objective, attack) if attacked else score_passes


class AveragedScores(Collector):
    """Averages scores over epochs."""

    def __init__(self):
        super().__init__()
        self.total: Tensor | float = 0.0

    def add(self, scores: Tensor) -> None:
        self.total = self.total + scores
        self.epochs += 1

    @property
    def rows(self) -> DenseRows:
        return DenseRows(matrix=torch.as_tensor(self.total / self.epochs)[:, None])


class Forgetting(Collector):
    """Counts how often an example that was right is wrong one epoch later.

    Scores are (N,) 1 where the example is right, 0 where it is wrong. An example that was never right counts as
    forgotten in every epoch.

    Reference: Toneva et al. 2019, section 2, whose forgetting events are counted at each presentation. Differs: once
    per epoch, on the plain view.
    """

    def __init__(self):
        super().__init__()
        self.before = self.learned = self.count = torch.zeros(())

    def add(self, scores: Tensor) -> None:
        right = scores > 0.5
        if self.epochs == 0:
            self.before = self.learned = torch.zeros_like(right)
            self.count = torch.zeros_like(scores, dtype=torch.float64)
        self.count = self.count + (self.before & ~right)
        self.before = right
        self.learned = self.learned | right
        self.epochs += 1

    @property
    def rows(self) -> DenseRows:
        never_learned = torch.full_like(self.count, float(self.epochs))
        return DenseRows(matrix=torch.where(self.learned, self.count, never_learned)[:, None])
