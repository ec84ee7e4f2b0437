"""Settings that a trainer and its selector share: given once, and the same in both."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from advcore.errors import SettingProblem, check, must, require
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.solvers.base import Solver
from advcore.training.caught_rows import list_catch_problems
from advcore.training.headroom import find_when_problem
from advcore.training.loop_settings import has_remembered_start

if TYPE_CHECKING:
    from advcore.training.trainer import Trainer

_WAY_OUT = "give selector and trainer the same; Trainer(solver=..., budget=...) needs no selector"


def expand_selection(trainer: "Trainer", budget: float | None, solver: Solver | None) -> dict[str, object]:
    """Return the schedule and the selector that `Trainer(budget=..., solver=...)` abbreviate, by name.

    A selector of the solver has everything else from the trainer. Raises ConfigError for a solver with a selector,
    and for one without a budget.
    """
    schedule = trainer.schedule
    selector = trainer.selector
    if not isinstance(schedule, Schedule):
        return {}  # its type is reported with those of the others
    if budget is not None:
        schedule = replace(schedule, budget=budget)
    if solver is not None:
        has_budget = budget is not None or schedule.budget < 1
        require(
            check(selector is None, "solver", "left out with a selector, which has one", solver),
            check(has_budget, "budget", "set where a solver is", None, "such as 0.5, the share of the data to keep"),
        )
        selector = AdversarialCoreset(
            objective=trainer.objective,
            attack=trainer.attack,
            solver=solver,
            head=trainer.head,
            **_list_shared(trainer, schedule),
        )
    elif budget is not None and isinstance(selector, AdversarialCoreset):
        selector = replace(selector, budget=budget)
    return {"schedule": schedule, "selector": selector}


def _list_shared(trainer: "Trainer", schedule: Schedule) -> dict:
    """Return the settings of a selector that say how its trainer works, by name."""
    return {
        "budget": schedule.budget,
        "normalise": trainer.normalise,
        "attack_mode": trainer.attack_mode,
        "block_size": trainer.batch_size,
    }


def list_disagreements(trainer: "Trainer") -> Iterator[SettingProblem]:
    """Yield a problem for each setting of the selector that does not go with the trainer's."""
    selector = trainer.selector
    if selector is None:
        return
    for name, value in _list_shared(trainer, trainer.schedule).items():
        is_read = name != "block_size" or selector.partition == "per_batch"
        got = getattr(selector, name)
        if is_read and got != value:
            yield must(f"selector.{name}", repr(value), got, _WAY_OUT)
    yield from list_catch_problems(trainer)
    if problem := find_when_problem(trainer):
        yield problem
    if trainer.normalise == "batch" and not getattr(selector.solver, "nonnegative", True):
        way_out = "the weights of a batch may sum to 0 or less; or use normalise: none"
        yield must("solver.nonnegative", "true with normalise: batch", False, way_out)
    if has_remembered_start(selector.attack) and not has_remembered_start(trainer.attack):
        rule = "uniform, or another that needs no memory, unless the training attack starts remembered"
        yield must("attack.start", rule, "remembered")
