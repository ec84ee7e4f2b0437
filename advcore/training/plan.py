"""What a run will cost, in forward and backward passes, before anything runs."""

from dataclasses import dataclass

from advcore.attacks.base import Attack
from advcore.data.contract import count_chunks
from advcore.gradients import GRADIENTS
from advcore.objectives.base import Objective, is_attacked
from advcore.objectives.standard import Standard
from advcore.selection.coreset import AdversarialCoreset
from advcore.solvers.base import find_scores_file
from advcore.training.minibatch import count_batch_units
from advcore.training.trainer import Trainer


def count_step_units(objective: Objective, attack: Attack | None) -> int:
    """Return the passes of one training step per example: the attack's, then forward and backward of the objective."""
    return count_batch_units(None, objective, attack, size=1, epoch=0)


def count_selection_units(selector: AdversarialCoreset) -> int:
    """Return the passes of one selection per example of the whole set."""
    reads = selector.solver.reads
    if reads is None:
        return 0
    gradient = GRADIENTS.get(reads)
    if gradient is None or gradient.is_collected or find_scores_file(selector.solver):
        return 0
    return gradient.units(selector.objective, selector.attack)


@dataclass(frozen=True)
class Reference:
    """The run that relative costs compare with: every example is attacked in each epoch, with one restart."""

    epochs: int
    steps: int | None
    units: int


def plan_reference(objective: Objective, attack: Attack | None, n: int, epochs: int, steps: int) -> Reference:
    """Return the reference of `epochs` over n examples with the same objective and `steps` attack steps."""
    if attack is None or not is_attacked(objective):
        return Reference(epochs, None, epochs * n * count_step_units(objective, None))
    return Reference(epochs, steps, epochs * n * count_step_units(objective, attack.reference(steps)))


@dataclass(frozen=True)
class PlannedUnits:
    """Units that a run will take, in all phases but evaluation.

    training : of training steps. selection : of selections. scores : of the scores over epochs that some solvers read,
    with the training of the probe from which they are taken.
    """

    training: int
    selection: int
    scores: int

    @property
    def total(self) -> int:
        return self.training + self.selection + self.scores


def count_planned_parts(trainer: Trainer, n: int, held_out: int = 0) -> PlannedUnits:
    """Count the units that the trainer will take on n training examples, by what they are for.

    held_out : how many validation examples there are, for selections that match their gradient. Counts are upper bounds
    where a minibatch rule adapts, and where weights are averaged (`SWA`) without a BatchNorm that trains.
    """
    plan = trainer.schedule.plan()
    scoring = 0
    if trainer.score is not None:
        scoring = trainer.score.units(trainer.objective, trainer.get_selector().attack)
    probe = trainer.probe_epochs * n * (count_step_units(Standard(), None) + scoring)
    full_epochs = sum(epoch.action == "full" for epoch in plan)
    selection = sum(epoch.action == "select" for epoch in plan)
    if selection:
        selector = trainer.get_selector()
        measured = n + held_out if selector.target == "validation" else n
        selection *= measured * count_selection_units(selector)
    return PlannedUnits(
        training=sum(_count_epoch_units(trainer, i, epoch.action, n) for i, epoch in enumerate(plan)),
        selection=selection,
        scores=probe + full_epochs * n * scoring,
    )


def _count_epoch_units(trainer: Trainer, epoch: int, action: str, n: int) -> int:
    sizes = count_chunks(trainer.count_examples(action, n), trainer.batch_size)
    attack = trainer.attack_at(epoch)
    more = 0
    if trainer.awp_at(epoch) is not None:
        more = 2 * len(trainer.objective.passes) * trainer.count_examples(action, n)
    if trainer.regularizer is not None:
        more += sum(trainer.regularizer.passes()) * trainer.count_examples(action, n)
    if trainer.is_averaged(epoch, trainer.schedule.length):
        more += trainer.count_examples(action, n)
    return more + sum(
        batches * count_batch_units(trainer.minibatch, trainer.objective, attack, size=size, epoch=epoch)
        for size, batches in sizes.items()
    )


def count_planned_units(trainer: Trainer, n: int, held_out: int = 0) -> int:
    """Return the units of all phases but evaluation that the trainer will take on n training examples."""
    return count_planned_parts(trainer, n, held_out).total
