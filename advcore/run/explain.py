"""Explains surprising plans: fewer epochs than were asked for, and a cost above that of full training."""

from advcore.errors import format_count
from advcore.selection.schedule import Schedule
from advcore.training.plan import PlannedUnits, Reference, count_selection_units
from advcore.training.trainer import Trainer


def explain_epochs(schedule: Schedule) -> str | None:
    """Say why fewer epochs run than `training.epochs` asks for; None where all of them run."""
    if schedule.length == schedule.epochs:
        return None
    change = f"cut to {schedule.warm_epochs}, on all data" if schedule.warm_epochs else "left out"
    warm_start = f"the warm start of {format_count(schedule.first, 'epoch')} is {change}"
    on_coresets = format_count(schedule.length - schedule.warm_epochs, "epoch")
    return (
        f"{schedule.length} of training.epochs: {schedule.epochs} run, so that the work is about "
        f"{100 * schedule.budget:g} % of full training (selection.budget): {warm_start}, then {on_coresets} on coresets"
    )


def explain_cost(trainer: Trainer, planned: PlannedUnits, reference: Reference, n: int) -> str | None:
    """Say why a run costs more than full training, and what would make it cheaper; None for a run that costs less.

    n : training examples, all of which each selection looks at.
    """
    if planned.total <= reference.units:
        return None
    reasons, ways = [], []
    if planned.selection:
        reasons.append(_describe_selections(trainer, planned.selection / reference.units, n))
        ways += _list_cheaper_selections(trainer)
    if planned.scores:
        reasons.append(f"{planned.scores / reference.units:.2f} into scores over epochs")
        ways += ["fewer selection.probe_epochs", "scores from a file (advcore score)"]
    if planned.training > reference.units or not reasons:
        reasons.append(f"{planned.training / reference.units:.2f} into training steps")
        ways += ["fewer training.epochs", "fewer attack.steps"]
        if trainer.minibatch:
            ways.append("no minibatch rule")
    total = planned.total / reference.units
    return (
        f"full training is cheaper: of this run's {total:.2f} go {' and '.join(reasons)}; "
        f"{', '.join(ways[:-1])} or {ways[-1]} would cost less"
    )


def _count_selections(trainer: Trainer) -> int:
    return sum(epoch.action == "select" for epoch in trainer.schedule.plan())


def _describe_selections(trainer: Trainer, share: float, n: int) -> str:
    times = format_count(_count_selections(trainer), "selection")
    assert trainer.selector is not None, "a run without a selector selects nothing"
    passes = count_selection_units(trainer.selector)
    return f"{share:.2f} into {times} ({passes} passes for each of {n:,} training examples)"


def _list_cheaper_selections(trainer: Trainer) -> list[str]:
    ways = []
    if _count_selections(trainer) > 1:
        ways.append("a longer selection.period")
    assert trainer.selector is not None, "a run without a selector selects nothing"
    if getattr(trainer.selector.attack, "steps", 1) > 1:
        ways.append("fewer steps in selection.attack")
    return [*ways, "more training.epochs with as many selections"]
