"""Explains unexpected lengths of a run and of its ramps, in sentences."""

from advcore.errors import format_count
from advcore.selection.schedule import Schedule
from advcore.training.loop_settings import count_ramp_steps, count_steps
from advcore.training.trainer import Trainer

_OTHER_SHARE = 1.25  # by how much a ramp's share of a run is larger or smaller than of full training, to be mentioned


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


def explain_ramps(trainer: Trainer, n: int, epochs: int) -> str | None:
    """Say which ramps and warm-ups take another share of the run's steps than of full training's `epochs`, if any do.

    n : training examples. Named are those whose share is larger or smaller by a quarter.
    """
    steps = count_steps(trainer, n)
    ramps = {
        "training.eps_ramp": (trainer.eps_ramp, count_ramp_steps(trainer, n)),
        "training.head_epochs": (trainer.head_epochs, sum(steps[: trainer.head_epochs])),
    }
    for path, part in (("minibatch", trainer.minibatch), ("training.awp", trainer.awp)):
        if part is not None:
            ramps[f"{path}.warm_up"] = (part.warm_up, sum(steps[: part.warm_up]))
    lines = []
    for path, (length, taken) in ramps.items():
        share = min(1.0, taken / sum(steps))
        usual = min(1.0, length / epochs)
        if length and not usual / _OTHER_SHARE <= share <= usual * _OTHER_SHARE:
            lines.append(f"{path}: {length:g} takes {share:.0%} of this run's steps, {usual:.0%} of full training's")
    return "; ".join(lines) or None


def explain_when(schedule: Schedule) -> str | None:
    """Say that selections may wait, so that the cost is a bound; None where they do not."""
    if schedule.when is None or schedule.budget == 1.0:
        return None
    return (
        "the cost is an upper bound: until headroom is below selection.when.headroom, subsets are drawn at random, "
        "which costs no passes"
    )
