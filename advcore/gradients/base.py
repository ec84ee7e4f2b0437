"""The interface of gradient rows: how they are measured, and what that costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from advcore.adversary import plan_attack
from advcore.attacks.base import Attack
from advcore.cost import CostLedger
from advcore.data.source import Source
from advcore.errors import check_at_least, require
from advcore.gradients.catch import Catch
from advcore.objectives.base import Objective
from advcore.objectives.standard import Standard
from advcore.rng import Stream
from advcore.rows import DenseRows, Rows
from advcore.settings import settings
from advcore.types import Event
from advcore.work import Work


@settings
class MeasurementSettings:
    """How rows are measured, besides the model and the data; a kind of row reads the settings that concern it.

    Parameters
    ----------
    ledger : counts the passes.
    objective, attack : lead to the attacked images; the attack may be None for an objective that is not attacked.
    stream : of the attack's draws; bound to the examples by what measures.
    kind : part of a last-layer gradient, "full", "weight" or "bias" (`FactoredRows`).
    head : name of the last linear layer; None finds it.
    attack_mode : "eval", or "train" as in some published codes (BatchNorm's statistics are restored all the same).
    chunk_size : examples at once, whatever the system's other batch sizes.
    folder : store factors in a temporary file there, not in memory; they read the same.
    on_chunk : called with the number of examples done and in all.
    """

    ledger: CostLedger
    objective: Objective = Standard()
    attack: Attack | None = None
    stream: Stream = Stream(seed=0, purpose="scoring")
    kind: str = "full"
    head: str | None = None
    attack_mode: str = "eval"
    chunk_size: int = 256
    folder: Path | None = None
    on_chunk: Callable[[int, int], None] = lambda done, total: None

    def __post_init__(self) -> None:
        require(check_at_least("chunk_size", self.chunk_size, 1))


@dataclass(frozen=True)
class Measurement:
    """The rows of a whole source, in its order, and the labels (N,) long, on the CPU.

    `events` say what had to be done otherwise, such as smaller chunks when memory ran out. With several processes, the
    first may be the only one that has rows and labels; they are None in the others.
    """

    rows: Rows | None
    labels: Tensor | None = field(repr=False)
    events: tuple[Event, ...] = ()

    def get_rows_and_labels(self) -> tuple[Rows, Tensor]:
        """Return the rows, and the labels on the rows' device. Only a process that has them may call this."""
        assert self.rows is not None and self.labels is not None, "only the first process may be without them"
        return self.rows, self.labels.to(self.rows.device)


@dataclass(eq=False)
class Collector:
    """Collects the scores of each epoch of a run; `rows` (N, 1) float64 combines those so far.

    A subclass stores everything in attributes, which are what a checkpoint holds.

    epochs : how many there were so far.
    """

    epochs: int = 0

    def add(self, scores: Tensor) -> None:
        """Take in the (N,) float64 scores of one more epoch, and count it in `epochs`."""
        raise NotImplementedError

    @property
    def rows(self) -> DenseRows:
        """Return (N, 1) float64, the scores of the run so far."""
        raise NotImplementedError

    def state(self) -> dict[str, object]:
        """Return everything collected, for a checkpoint."""
        return dict(vars(self))

    def restore(self, state: Mapping[str, object]) -> None:
        """Replace everything collected by what `state` returned."""
        vars(self).update({name: state[name] for name in vars(self)})


@dataclass(frozen=True)
class Gradient:
    """One kind of row.

    about : what it is, in one line.
    measure : (model, source, settings) to the rows.
    plan : (objective, attack) to the passes per example that one measurement takes.
    collect : what makes an object that collects scores over the epochs of a training run; None: rows are remeasured
        at every selection.
    is_attacked : whether it looks at attacked images, and so takes an objective that is attacked.
    is_scalar : whether a row is one number, which takes next to no memory.
    reads_head : whether it is measured at the model's head, which a run then looks for before it starts.
    objective : whose loss it is measured by, and attacked; None: the run's.
    catch : how its rows are caught in training steps; None where they cannot be.
    """

    about: str
    measure: Callable[[nn.Module, Source, MeasurementSettings], Measurement] = field(repr=False)
    plan: Callable[[Objective, Attack | None], Work] = field(repr=False)
    collect: Callable[[], Collector] | None = field(default=None, repr=False)
    is_attacked: bool = False
    is_scalar: bool = True
    reads_head: bool = False
    objective: Objective | None = field(default=None, repr=False)
    catch: Catch | None = field(default=None, repr=False)

    @property
    def is_collected(self) -> bool:
        """Return whether its rows are scores collected over a training run."""
        return self.collect is not None


def define_clean_and_attacked(
    name: str,
    about: str,
    *,
    measure: Callable[..., Measurement],
    score_passes: int | Work,
    collect: Callable[[], Collector] | None = None,
    reads_head: bool = False,
    catch: Callable[[str], Catch | None] = lambda name: None,
) -> dict[str, Gradient]:
    """Return two gradients by name: a score at clean images, NAME, and at attacked ones, adversarial_NAME.

    about, collect, reads_head : as in `Gradient`, of the score. measure : so too; it is also given `attacked`, False or
        True.
    score_passes : passes per example that the score itself takes, by kind; a number counts forward passes.
    catch : the name of a forward pass, "clean" or "adversarial", to how the score is caught there in training.
    """
    score_work = Work(forward=score_passes) if isinstance(score_passes, int) else score_passes
    return {
        f"{prefix}{name}": Gradient(
            about=f"{about}; {images}",
            measure=partial(measure, attacked=attacked),
            plan=partial(_plan_score, score_work, attacked=attacked),
            collect=collect,
            is_attacked=attacked,
            reads_head=reads_head,
            catch=catch("adversarial" if attacked else "clean"),
        )
        for prefix, images, attacked in (("", "clean", False), ("adversarial_", "attacked", True))
    }


def _plan_score(score_work: Work, objective: Objective, attack: Attack | None, *, attacked: bool) -> Work:
    if not attacked:
        return score_work
    return score_work + plan_attack(objective, attack)


@dataclass(eq=False)
class AveragedScores(Collector):
    """Averages scores over epochs.

    total : (N,) their sum.
    """

    total: Tensor | float = 0.0

    def add(self, scores: Tensor) -> None:
        self.total = self.total + scores
        self.epochs += 1

    @property
    def rows(self) -> DenseRows:
        return DenseRows(matrix=torch.as_tensor(self.total / self.epochs)[:, None])


_NOTHING = torch.zeros(())


@dataclass(eq=False)
class Forgetting(Collector):
    """Counts how often an example that was right is wrong one epoch later.

    Scores are (N,) 1 where the example is right, 0 where it is wrong. An example that was never right counts as
    forgotten in every epoch.

    before, learned : (N,) bool, which examples were right in the last epoch, and in any.
    count : (N,) float64, how often each was forgotten.

    Reference: Toneva et al. 2019, section 2, whose forgetting events are counted at each presentation. Differs: once
    per epoch, on the plain view.
    """

    before: Tensor = _NOTHING
    learned: Tensor = _NOTHING
    count: Tensor = _NOTHING

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
