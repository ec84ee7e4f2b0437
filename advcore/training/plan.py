"""What a run will cost, in forward and backward passes, before anything runs."""

from dataclasses import dataclass, replace

from advcore.adversary import passes
from advcore.attacks.base import Attack
from advcore.objectives.base import Objective, attacked
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule


def step_units(objective: Objective, attack: Attack | None) -> int:
    """Passes of one training step, an example: the attack, then forward and backward of the objective's passes."""
    return passes(objective, attack) + 2 * len(objective.passes)


def selection_units(selector: AdversarialCoreset) -> int:
    """Passes of one selection, an example of the whole set."""
    if selector.solver.reads != "last_layer":
        return 0
    objective = selector.objective
    return passes(objective, selector.attack, clean_known="clean" in objective.passes) + len(objective.passes)


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
    if hasattr(attack, "steps") and hasattr(attack, "restarts"):
        attack = replace(attack, steps=steps, restarts=1)
    return Reference(epochs, steps, epochs * n * step_units(objective, attack))


def planned_units(
    schedule: Schedule,
    objective: Objective,
    attack: Attack | None,
    selector: AdversarialCoreset | None,
    n: int,
    probe_epochs: int = 0,
) -> int:
    """Units of all phases but evaluation that the schedule will take on n training examples."""
    k = max(1, round(schedule.budget * n))
    total = 0
    for epoch in schedule.plan():
        total += (n if epoch.action == "full" else k) * step_units(objective, attack)
        if epoch.action == "select":
            total += n * selection_units(selector)
        if epoch.action == "full" and selector is not None and selector.solver.reads == "input_norm":
            total += 2 * n
    return total + probe_epochs * n * 4
