"""What a run will cost, in forward and backward passes, before anything runs."""

from dataclasses import dataclass

from advcore.attacks.base import Attack
from advcore.data.source import chunk_sizes
from advcore.gradients import GRADIENTS
from advcore.objectives.base import Objective, attacked
from advcore.objectives.standard import Standard
from advcore.selection.coreset import AdversarialCoreset
from advcore.solvers.base import scores_file
from advcore.training.minibatch import batch_units
from advcore.training.trainer import Trainer


def step_units(objective: Objective, attack: Attack | None) -> int:
    """Passes of one training step, an example: the attack, then forward and backward of the objective's passes."""
    return batch_units(None, objective, attack, 1, 0)


def selection_units(selector: AdversarialCoreset) -> int:
    """Passes of one selection, an example of the whole set."""
    gradient = GRADIENTS.get(selector.solver.reads)
    return (
        0
        if gradient is None or gradient.averaged or scores_file(selector.solver)
        else gradient.units(selector.objective, selector.attack)
    )


@dataclass(frozen=True)
class Reference:
    """The run that relative costs compare with: every example attacked in each epoch, one restart."""

    epochs: int
    steps: int | None
    units: int


def reference(objective: Objective, attack: Attack | None, n: int, epochs: int, steps: int) -> Reference:
    """Units of `epochs` over n examples with the same objective and `steps` attack steps."""
    if not attacked(objective):
        return Reference(epochs, None, epochs * n * step_units(objective, None))
    return Reference(epochs, steps, epochs * n * step_units(objective, attack.reference(steps)))


@dataclass(frozen=True)
class PlannedUnits:
    """Units that a run will take, all phases but evaluation: of training steps, of selections, and of the scores over
    epochs that some solvers read, with the probe that they are taken of."""

    training: int
    selection: int
    scores: int

    @property
    def total(self) -> int:
        return self.training + self.selection + self.scores


def planned_parts(trainer: Trainer, n: int, held_out: int = 0) -> PlannedUnits:
    """Count the units that the trainer will take on n training examples, by what they are for.

    held_out : how many validation examples there are, for selections that match their gradient. Counts are upper bounds
    where a minibatch rule adapts.
    """
    objective, selector = trainer.objective, trainer.selector
    scoring = GRADIENTS[trainer.solver_reads].units(objective, selector.attack) if trainer.scored else 0
    training, selection = 0, 0
    scores = trainer.probe_epochs * n * (step_units(Standard(), None) + scoring)
    for i, epoch in enumerate(trainer.schedule.plan()):
        examples = trainer.examples(epoch.action, n)
        for size, batches in chunk_sizes(examples, trainer.batch_size).items():
            training += batches * batch_units(trainer.minibatch, objective, trainer.attack_at(i), size, i)
        if epoch.action == "select":
            measured = n + (held_out if selector.target == "validation" else 0)
            selection += measured * selection_units(selector)
        if epoch.action == "full":
            scores += n * scoring
    return PlannedUnits(training, selection, scores)


def planned_units(trainer: Trainer, n: int, held_out: int = 0) -> int:
    """Units of all phases but evaluation that the trainer will take on n training examples; see `planned_parts`."""
    return planned_parts(trainer, n, held_out).total
