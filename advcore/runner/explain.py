"""Why a plan is what it is, for whoever is surprised by it: epochs that do not run, and a cost above full training."""

from advcore.errors import counted
from advcore.selection.schedule import Schedule
from advcore.training.plan import PlannedUnits, Reference, selection_units
from advcore.training.trainer import Trainer


def explain_epochs(schedule: Schedule) -> str | None:
    """Say why fewer epochs run than `training.epochs` asks for; None where all run."""
    if schedule.length == schedule.epochs:
        return None
    warm_start = f"the warm start of {counted(schedule.first, 'epoch')}"
    cut = f"is cut to {schedule.warm_epochs}, on all data" if schedule.warm_epochs else "is left out"
    on_coresets = counted(schedule.length - schedule.warm_epochs, "epoch")
    return (
        f"{schedule.length} of training.epochs: {schedule.epochs} run, so that the work is about "
        f"{100 * schedule.budget:g} % of full training (selection.budget): {warm_start} {cut}, then {on_coresets} on "
        "coresets"
    )


def explain_cost(trainer: Trainer, planned: PlannedUnits, reference: Reference, n: int) -> str | None:
    """Say why a run costs more than full training, and what makes it cheaper; None where it does not.

    n : training examples, all of which each selection looks at.
    """
    if planned.total <= reference.units:
        return None
    reasons, ways = [], []
    if planned.selection:
        reasons.append(_selections(trainer, planned.selection / reference.units, n))
        ways += _cheaper_selections(trainer)
    if planned.scores:
        reasons.append(f"{planned.scores / reference.units:.2f} into scores over epochs")
        ways += ["fewer selection.probe_epochs", "scores from a file (advcore score)"]
    if planned.training > reference.units or not reasons:
        reasons.append(f"{planned.training / reference.units:.2f} into training steps")
        ways += ["fewer training.epochs", "fewer attack.steps", *(["no minibatch rule"] if trainer.minibatch else [])]
    total = planned.total / reference.units
    return (
        f"full training is cheaper: of this run's {total:.2f} go {' and '.join(reasons)}; "
        f"{', '.join(ways[:-1])} or {ways[-1]} would cost less"
    )


def _selections(trainer: Trainer, share: float, n: int) -> str:
    times = sum(epoch.action == "select" for epoch in trainer.schedule.plan())
    passes = selection_units(trainer.selector)
    return f"{share:.2f} into {counted(times, 'selection')} ({passes} passes for each of {n:,} training examples)"


def _cheaper_selections(trainer: Trainer) -> list[str]:
    several = sum(epoch.action == "select" for epoch in trainer.schedule.plan()) > 1
    steps = getattr(trainer.selector.attack, "steps", 1)
    ways = ["a longer selection.period"] if several else []
    ways += ["fewer steps in selection.attack"] if steps > 1 else []
    return [*ways, "more training.epochs with as many selections"]
