"""What a wanted cost buys: budgets, steps, periods and rules, from the closed forms of `plan.py`."""

import bisect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from advcore.attacks.base import Attack
from advcore.errors import ConfigError, must
from advcore.minibatch.margin import Margin
from advcore.training.caught_rows import is_catching
from advcore.training.minibatch import Rule, find_rule_problem
from advcore.training.plan import Reference, plan_selection, plan_work
from advcore.training.trainer import Trainer

_STEPS = (1, 2, 3, 5, 7, 10, 20)
_DIGITS = 1e4  # an offered budget has four digits


def replace_budget(trainer: Trainer, budget: float) -> Trainer:
    """Return the trainer for another share of the data. Raises ConfigError if it refuses that."""
    return replace(trainer, budget=budget)


@dataclass(frozen=True)
class _Costs:
    """Runs of a trainer on n training and `held_out` validation examples, whose costs are relative to a reference."""

    n: int
    held_out: int
    reference: Reference

    def cost(self, trainer: Trainer) -> float:
        """Return the relative cost of the trainer's run."""
        return self.reference.relate(plan_work(trainer, self.n, self.held_out))

    def cost_of(self, trainer: Trainer, k: int) -> float:
        """Return the relative cost of a run on k of the examples. Raises ConfigError if the trainer refuses k."""
        return self.cost(replace_budget(trainer, k / self.n))


def find_largest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the largest number in low..high for which `holds` is true, by bisection.

    `holds(low)` must be true, and from the first number for which it is false it must stay false.
    """
    return low + bisect.bisect_left(range(low + 1, high + 1), True, key=lambda number: not holds(number))


def _find_least_size(trainer: Trainer, costs: _Costs) -> int:
    """Return the smallest number of examples, of 2..n - 1, that the trainer accepts: it may refuse few for few epochs.

    Raises ConfigError, the trainer's, if it accepts none.
    """
    costs.cost_of(trainer, costs.n - 1)

    def is_refused(k: int) -> bool:
        try:
            costs.cost_of(trainer, k)
        except ConfigError:
            return True
        return False

    return find_largest(is_refused, 1, costs.n - 1) + 1


def _find_budget(least: int, trainer: Trainer, costs: _Costs, wanted: float) -> float:
    """Return the largest share of the training examples, below 1, at which the run costs at most `wanted`.

    It is cut to four decimals, but no lower than `least` of n: a number of examples known to cost no more.
    """
    k = find_largest(lambda k: costs.cost_of(trainer, k) <= wanted, least, costs.n - 1)
    return max(int(k / costs.n * _DIGITS) / _DIGITS, least / costs.n)


def find_budget_at_cost(trainer: Trainer, n: int, held_out: int, cost: float, reference: Reference) -> float:
    """Return the largest budget below 1 at which the run costs at most `cost`, relative to the reference.

    n, held_out : how many training and validation examples there are. Raises ConfigError, with figures, where even the
    least budget costs more or even the largest less.
    """
    costs = _Costs(n, held_out, reference)
    size = _find_least_size(trainer, costs)
    least = costs.cost_of(trainer, size)
    most = costs.cost_of(trainer, n - 1)
    if cost < least:
        rule = f"at least {format_limit(least)}, what {size} examples of {n} cost"
        cheaper = "fewer attack steps, a cheaper selection.attack or a longer period cost less"
        raise ConfigError(must("cost", rule, cost, cheaper))
    if cost > most:
        rule = f"at most {format_limit(most, direction=-1)}, what {n - 1} examples of {n} cost"
        raise ConfigError(must("cost", rule, cost, "use all data"))
    return _find_budget(size, trainer, costs, cost)


def format_limit(limit: float, direction: int = 1) -> str:
    """Write a limit in three digits, rounded up (1) or down (-1), so that a user can ask for it and not be refused."""
    unit = 10.0 ** (math.floor(math.log10(limit)) - 2)
    return f"{direction * math.ceil(direction * limit / unit - 1e-9) * unit:.3g}"


@dataclass(frozen=True)
class Offer:
    """A run near a wanted cost.

    steps : attack steps; None for the run file's own schedule of steps, or an attack without steps.
    selection_steps : steps of the selection's attack; None where nothing is attacked to select.
    period : coreset epochs between selections; None: one selection. rule : minibatch rule; None: no rule.
    budget : share of the data. cost : relative to the reference.
    """

    steps: int | None
    selection_steps: int | None
    period: int | None
    rule: Rule | None
    budget: float
    cost: float


def list_offers(trainer: Trainer, n: int, held_out: int, cost: float, reference: Reference) -> list[Offer]:
    """Return runs of at most the relative `cost`, each on as much data as the cost allows: all, with no selection, too.

    They combine the trainer's own settings with fewer attack steps, a selection by one step, one selection only, and a
    margin rule (no rule, if the trainer has one). No run is offered twice. n, held_out, reference : as in
    `find_budget_at_cost`. Raises ConfigError, with the least cost there is, if nothing is that cheap.
    """
    costs = _Costs(n, held_out, reference)
    results: list[Offer] = []
    least = float("inf")
    refusal = ConfigError("no run is near this cost")
    for variant in _combine_savings(trainer):
        on_all_data = replace(variant, schedule=replace(variant.schedule, budget=1.0), selector=None, probe_epochs=0)
        if costs.cost(on_all_data) <= cost:
            results.append(_describe_offer(on_all_data, costs))
            continue
        try:
            size = _find_least_size(variant, costs)
        except ConfigError as error:
            refusal = error
            continue
        variant_least = costs.cost_of(variant, size)
        least = min(least, variant_least)
        if variant_least <= cost:
            budget = _find_budget(size, variant, costs, cost)
            results.append(_describe_offer(replace_budget(variant, budget), costs))
    if not results and least == float("inf"):
        raise refusal
    if not results:
        rule = f"at least {format_limit(least)}, the cheapest found"
        raise ConfigError(must("--cost", rule, cost, "or train fewer epochs"))
    return list(dict.fromkeys(results))


def _describe_offer(trainer: Trainer, costs: _Costs) -> Offer:
    selector = trainer.selector
    selection_steps = period = None
    if selector is not None:
        period = trainer.schedule.period
        if plan_selection(selector).units > 0:
            selection_steps = _get_steps(selector.attack)
    return Offer(
        steps=None if trainer.attack_steps else _get_steps(trainer.attack),
        selection_steps=selection_steps,
        period=period,
        rule=trainer.minibatch,
        budget=trainer.schedule.budget,
        cost=costs.cost(trainer),
    )


def _combine_savings(trainer: Trainer) -> Iterator[Trainer]:
    """Yield the trainer with all combinations of its attack, selection and minibatch rule and other ones.

    Other attacks and selections are cheaper; the other rule is a margin rule, or none if the trainer has one.
    """
    selector = trainer.get_selector()
    attacks = [_replace_steps(trainer.attack, steps) for steps in _list_steps(trainer)]
    selection_attacks = [selector.attack]
    periods = [trainer.schedule.period]
    if plan_selection(selector).units > 0:
        if _get_steps(selector.attack) != 1:
            selection_attacks.append(_replace_steps(selector.attack, 1))
        if trainer.schedule.schedule != "acs" and trainer.schedule.period is not None:
            periods.append(None)
    epochs = len(trainer.schedule.plan())
    rules = [
        rule
        for rule in (trainer.minibatch, None if trainer.minibatch else Margin())
        if not find_rule_problem(rule, trainer.objective, trainer.attack, epochs, trainer)
        and (rule is trainer.minibatch or not is_catching(trainer))
    ]
    for attack, selection_attack, period, rule in itertools.product(attacks, selection_attacks, periods, rules):
        if is_catching(trainer) and selection_attack == trainer.attack:
            selection_attack = attack  # by which rows are refreshed
        yield replace(
            trainer,
            attack=attack,
            minibatch=rule,
            selector=replace(selector, attack=selection_attack),
            schedule=replace(trainer.schedule, period=period),
        )


def _list_steps(trainer: Trainer) -> list[int | None]:
    """Return the numbers of attack steps that are offered: the trainer's, and fewer if no schedule sets them."""
    most = _get_steps(trainer.attack)
    if most is None or trainer.attack_steps:
        return [most]
    return [*(steps for steps in _STEPS if steps < most), most]


def _get_steps(attack: Attack | None) -> int | None:
    return getattr(attack, "steps", None)


def _replace_steps(attack: Attack | None, steps: int | None) -> Attack | None:
    """Return the attack with `steps` steps of the size that suits that many; an attack without steps stays as it is."""
    if attack is None or _get_steps(attack) in (None, steps):
        return attack
    changes = {"steps": steps}
    if hasattr(attack, "step_size"):
        changes["step_size"] = None
    return attack.with_settings(**changes)
