"""What a run will cost, in passes and in floating-point operations, before anything runs."""

from dataclasses import dataclass, field

from advcore.adversary import plan_attack
from advcore.attacks.base import Attack
from advcore.data.contract import count_chunks
from advcore.gradients import GRADIENTS
from advcore.minibatch.base import is_reattack
from advcore.objectives.base import Objective, is_attacked
from advcore.objectives.standard import Standard
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.rows_from import find_catch
from advcore.solvers.base import find_scores_file
from advcore.training.caught_rows import is_catching, plan_refresh
from advcore.training.first_visits import FirstVisits, plan_first_visits
from advcore.training.minibatch import count_picked, plan_batch
from advcore.training.prices import Prices
from advcore.training.trainer import Trainer
from advcore.types import Facts
from advcore.work import NO_WORK, Work


def plan_step(objective: Objective, attack: Attack | None) -> Work:
    """Count the passes of one training step per example: the attack's, then forward and backward of the objective."""
    return plan_batch(None, objective, attack, size=1, epoch=0)


def plan_selection(selector: AdversarialCoreset) -> Work:
    """Count the passes of one selection per example of the whole set: none where rows are caught in training."""
    if find_catch(selector) is not None:
        return NO_WORK
    return plan_measurement(selector)


def plan_measurement(selector: AdversarialCoreset) -> Work:
    """Count the passes per example by which a selector's rows are measured."""
    reads = selector.solver.reads
    if reads is None:
        return NO_WORK
    gradient = GRADIENTS.get(reads)
    if gradient is None or gradient.is_collected or find_scores_file(selector.solver):
        return NO_WORK
    return gradient.plan(selector.objective, selector.attack)


@dataclass(frozen=True)
class Reference:
    """The run that relative costs compare with: every example is attacked in each epoch, with one restart.

    epochs, steps : of the run and of its attack; None for no attack. work : its passes. prices : what passes cost;
    None where they are compared as passes.
    """

    epochs: int
    steps: int | None
    work: Work
    prices: Prices | None = field(default=None, repr=False)

    @property
    def units(self) -> int:
        """Return its forward and backward passes."""
        return self.work.units

    @property
    def flops(self) -> int | None:
        """Return its floating-point operations; None where they are not counted."""
        return self.price(self.work)

    def price(self, work: Work) -> int | None:
        """Return the operations of the work; None where they are not counted."""
        if self.prices is None:
            return None
        return self.prices.price(work)

    def relate(self, work: Work) -> float:
        """Return the cost of the work relative to this run: by operations, or by passes where these are not counted."""
        flops = self.flops
        cost = self.price(work)
        if flops is None or cost is None:
            return work.units / self.units
        return cost / flops

    def describe(self) -> Facts:
        """Return {epochs, steps, units, flops} for a record; without flops where they are not counted."""
        facts: Facts = {"epochs": self.epochs, "steps": self.steps, "units": self.units}
        if self.flops is not None:
            facts["flops"] = self.flops
        return facts


def plan_reference(
    objective: Objective, attack: Attack | None, n: int, *, epochs: int, steps: int, prices: Prices | None = None
) -> Reference:
    """Return the reference of `epochs` over n examples with the same objective and `steps` attack steps.

    prices : what passes cost; None compares passes.
    """
    if attack is None or not is_attacked(objective):
        return Reference(epochs, None, epochs * n * plan_step(objective, None), prices)
    return Reference(epochs, steps, epochs * n * plan_step(objective, attack.reference(steps)), prices)


@dataclass(frozen=True)
class PlannedWork:
    """Passes that a run will take, in all phases but evaluation.

    training : of training steps. selection : of selections, and of rows that are remeasured between them. scores :
    of the scores over epochs that some solvers read, with the training of the probe from which they are taken.
    """

    training: Work
    selection: Work
    scores: Work

    @property
    def total(self) -> Work:
        return self.training + self.selection + self.scores


def plan_parts(trainer: Trainer, n: int, held_out: int = 0, pool: int = 0) -> PlannedWork:
    """Count the passes that the trainer will take on n training examples, by what they are for.

    held_out : how many validation examples there are, for selections that match their gradient. pool : how many images
    there are in a pool, from which selections then choose. Counts are upper bounds where a minibatch rule adapts, where
    weights are averaged (`SWA`) without a BatchNorm that trains, and where a rule with `rest: remembered` meets the
    newcomers of a new coreset (`plan_first_visits`).
    """
    plan = trainer.schedule.plan()
    scoring = NO_WORK
    if trainer.score is not None and not is_catching(trainer):
        scoring = trainer.score.plan(trainer.objective, trainer.get_selector().attack)
    probe = trainer.probe_epochs * n * (plan_step(Standard(), None) + scoring)
    full_epochs = sum(epoch.action == "full" for epoch in plan)
    selections = sum(epoch.action == "select" for epoch in plan)
    selection = plan_refresh(trainer, n)
    if selections:
        selector = trainer.get_selector()
        selection += selections * (pool or n) * plan_selection(selector)
        goal = {"train": 0, "validation": held_out, "real": n}[selector.target]
        selection += selections * goal * plan_measurement(selector)
    training = NO_WORK
    for i, (epoch, visits) in enumerate(zip(plan, plan_first_visits(trainer, n), strict=True)):
        training += _plan_epoch(trainer, i, trainer.count_examples(epoch.action, n), visits)
    return PlannedWork(training=training, selection=selection, scores=probe + full_epochs * n * scoring)


def _plan_epoch(trainer: Trainer, epoch: int, examples: int, visits: FirstVisits) -> Work:
    rule = trainer.minibatch
    attack = trainer.attack_at(epoch)
    work = NO_WORK
    if trainer.awp_at(epoch) is not None:
        passes = len(trainer.objective.passes) * examples
        work += Work(forward=passes, to_weights=passes)
    if trainer.regularizer is not None:
        work += examples * trainer.regularizer.plan()
    sizes = count_chunks(examples, trainer.batch_size)
    for size, batches in sizes.items():
        unknown = size * (is_reattack(rule) and visits.are_all)
        work += batches * plan_batch(rule, trainer.objective, attack, size=size, epoch=epoch, unknown=unknown)
    if (
        is_reattack(rule) and not visits.are_all
    ):  # each newcomer is attacked in addition to what the rule picks, at most
        left = sum(batches * (size - count_picked(rule, size)) for size, batches in sizes.items())
        work += min(visits.most, left) * plan_attack(trainer.objective, attack)
    if epoch < trainer.head_epochs:
        work = work.train_head()
    if trainer.is_averaged(epoch, trainer.schedule.length):
        work += Work(forward=examples)
    return work


def plan_work(trainer: Trainer, n: int, held_out: int = 0, pool: int = 0) -> Work:
    """Count the passes of all phases but evaluation that the trainer will take on n training examples."""
    return plan_parts(trainer, n, held_out, pool).total


def count_planned_units(trainer: Trainer, n: int, held_out: int = 0, pool: int = 0) -> int:
    """Return the forward and backward passes of `plan_work`."""
    return plan_work(trainer, n, held_out, pool).units
