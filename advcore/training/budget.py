"""What a wanted cost buys: budgets, steps, periods and rules, from the closed forms of `plan.py`."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from advcore.attacks.base import Attack
from advcore.errors import ConfigError, must
from advcore.minibatch.margin import Margin
from advcore.training.minibatch import rule_problem
from advcore.training.plan import planned_units, selection_units
from advcore.training.trainer import Trainer

_STEPS = (1, 2, 3, 5, 7, 10, 20)
_DIGITS = 1e4  # of a budget that is offered


def with_budget(trainer: Trainer, budget: float) -> Trainer:
    """The same run on another share of the data."""
    selector = trainer.selector and replace(trainer.selector, budget=budget)
    return replace(trainer, schedule=replace(trainer.schedule, budget=budget), selector=selector)


def _units(trainer: Trainer, k: int, n: int, held_out: int) -> int | None:
    """Of a run on k of n examples; None where the trainer refuses it, as it may a run of few epochs on all data."""
    try:
        return planned_units(with_budget(trainer, k / n), n, held_out)
    except ConfigError:
        return None


def largest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest in low..high for which `holds`, which does from low on until it does no more."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _range(trainer: Trainer, n: int, held_out: int) -> tuple[int, int] | None:
    """The smallest and the largest number of examples, of 2..n - 1, with which the trainer agrees to run; None if with
    none. What it refuses is too small."""
    if _units(trainer, n - 1, n, held_out) is None:
        return None
    refused = largest(lambda k: k < 2 or _units(trainer, k, n, held_out) is None, 1, n - 1)
    return refused + 1, n - 1


def _budget_for(sizes: tuple[int, int], trainer: Trainer, n: int, held_out: int, units: float) -> float | None:
    """The largest share of n training examples with which the run takes at most `units` passes, to four digits; None
    where the fewest take more. `sizes`: the trainer's own `_range`. `held_out`: how many validation examples there are.
    """
    if _units(trainer, sizes[0], n, held_out) > units:
        return None
    k = largest(lambda k: _units(trainer, k, n, held_out) <= units, *sizes)
    return max(int(k / n * _DIGITS) / _DIGITS, sizes[0] / n)


def budget_at_cost(trainer: Trainer, n: int, held_out: int, cost: float, reference_units: int) -> float:
    """The budget of a run that is to have a relative cost. Raises ConfigError, with figures, where none has."""
    found = _range(trainer, n, held_out)
    if found is None:
        with_budget(trainer, (n - 1) / n)  # which raises why
    least, most = (_units(trainer, k, n, held_out) / reference_units for k in found)
    if cost < least:
        way_out = "fewer attack steps, a cheaper selection.attack or a longer period cost less"
        raise ConfigError(must("cost", f"at least {_told(least)}, what {found[0]} examples of {n} cost", cost, way_out))
    if cost > most:
        limit = f"at most {_told(most, -1)}, what {n - 1} examples of {n} cost"
        raise ConfigError(must("cost", limit, cost, "use all data"))
    return _budget_for(found, trainer, n, held_out, cost * reference_units)


def _told(limit: float, way: int = 1) -> str:
    """A limit in three digits, away from what it refuses (way 1: up, -1: down), so that it can be asked for."""
    unit = 10.0 ** (math.floor(math.log10(limit)) - 2)
    return f"{way * math.ceil(way * limit / unit - 1e-9) * unit:.3g}"


@dataclass(frozen=True)
class Offer:
    """A run near a wanted cost: attack steps (None: the file's own schedule, or an attack without), steps of the
    selection's attack (None where nothing is attacked to select), coreset epochs between selections (None: one),
    minibatch rule (None: none), share of the data, and the relative cost."""

    steps: int | None
    selection_steps: int | None
    period: int | None
    rule: Any
    budget: float
    cost: float


def offers(trainer: Trainer, n: int, held_out: int, cost: float, reference_units: int) -> list[Offer]:
    """Runs of at most the relative `cost`, each on as much data as it pays for: the trainer's own settings, fewer
    attack steps, a selection by one step, one selection only, and a margin rule, in all combinations.

    Raises ConfigError, with the least there is, if nothing is that cheap.
    """
    found, least = [], float("inf")
    for one in _variants(trainer):
        whole = replace(one, schedule=replace(one.schedule, budget=1.0), selector=None, probe_epochs=0)
        if planned_units(whole, n, held_out) <= cost * reference_units:
            found.append(_offer(whole, 1.0, n, held_out, reference_units))
            continue
        sizes = _range(one, n, held_out)
        if sizes is None:
            continue
        least = min(least, _units(one, sizes[0], n, held_out) / reference_units)
        budget = _budget_for(sizes, one, n, held_out, cost * reference_units)
        if budget is not None:
            found.append(_offer(with_budget(one, budget), budget, n, held_out, reference_units))
    if not found:
        raise ConfigError(must("--cost", f"at least {_told(least)}, the cheapest found", cost, "or train fewer epochs"))
    return list(dict.fromkeys(found))


def _offer(trainer: Trainer, budget: float, n: int, held_out: int, reference_units: int) -> Offer:
    selector = trainer.selector
    attacks = selector is not None and selection_units(selector) > 0
    return Offer(
        steps=None if trainer.attack_steps else _steps(trainer.attack),
        selection_steps=_steps(selector.attack) if attacks else None,
        period=trainer.schedule.period if selector else None,
        rule=trainer.minibatch,
        budget=budget,
        cost=planned_units(trainer, n, held_out) / reference_units,
    )


def _variants(trainer: Trainer) -> Iterator[Trainer]:
    selector, schedule = trainer.selector, trainer.schedule
    most = _steps(trainer.attack)
    steps = [most] if most is None or trainer.attack_steps else sorted({s for s in _STEPS if s < most} | {most})
    measured = selection_units(selector) > 0
    once = measured and schedule.schedule != "acs"
    rules = [trainer.minibatch] + ([None] if trainer.minibatch else [Margin()])
    rules = [rule for rule in rules if not _unfit(rule, trainer)]
    for count in steps:
        attack = _with_steps(trainer.attack, count)
        choosing = [selector.attack, _with_steps(selector.attack, 1)] if measured else [selector.attack]
        for own in choosing if _steps(choosing[0]) != 1 else choosing[:1]:
            for period in dict.fromkeys([schedule.period, None] if once else [schedule.period]):
                for rule in rules:
                    yield replace(
                        trainer,
                        attack=attack,
                        minibatch=rule,
                        selector=replace(selector, attack=own),
                        schedule=replace(schedule, period=period),
                    )


def _unfit(rule: Any, trainer: Trainer) -> str | None:
    return rule_problem(rule, trainer.objective, len(trainer.schedule.plan()), trainer.normalise)


def _steps(attack: Attack | None) -> int | None:
    return getattr(attack, "steps", None)


def _with_steps(attack: Attack | None, steps: int | None) -> Attack | None:
    """Of so many steps, as long as so many should be; as it is where it has as many, or none to change."""
    if _steps(attack) in (None, steps):
        return attack
    return attack.changed(steps=steps, **({"step_size": None} if hasattr(attack, "step_size") else {}))
