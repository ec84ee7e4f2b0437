"""What a user would do instead of a coreset or a minibatch rule, at the same relative cost: added to a suite by itself.

Pure but for `counts`, which says how many examples a method's data has.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from advcore.attacks import NFGSM, LinfPGD
from advcore.attacks.memory import Memory
from advcore.errors import UserError
from advcore.minibatch.base import AttackSubset, UpdateSubset
from advcore.minibatch.uniform import RandomMix, RandomSubset
from advcore.objectives.base import attacked
from advcore.runner import build
from advcore.runner.config import list_changes
from advcore.runner.identity import identity
from advcore.runner.schema import RunConfig, SelectionConfig
from advcore.runner.suite_file import LONGEST, slug
from advcore.solvers.uniform import Random
from advcore.training.budget import budget_at_cost, largest
from advcore.training.lr import MultiStep
from advcore.training.plan import planned_units, reference

Counts = Callable[[RunConfig], tuple[int, int]]
"""How many training and validation examples a config's data has."""
FAT_STEP = 1.25
"""Of eps: Wong et al. 2020, algorithm 3, alpha 10/255 for eps 8/255."""


def planned_cost(config: RunConfig, counts: Counts) -> float:
    """Relative cost of a run by its plan; at most, where a minibatch rule adapts."""
    n, held_out = counts(config)
    trainer, units = build.trainer(config), _reference_units(config, n)
    chosen = config.selection
    if chosen is not None and chosen.cost is not None:
        budget = budget_at_cost(trainer, n, held_out, chosen.cost, units)
        trainer = build.trainer(replace(config, selection=replace(chosen, budget=budget, cost=None)))
    return planned_units(trainer, n, held_out) / units


def _reference_units(config: RunConfig, n: int) -> int:
    epochs = config.cost.reference_epochs or config.training.epochs
    return reference(config.objective, config.attack, n, epochs, config.cost.reference_steps).units


def with_baselines(
    methods: dict[str, RunConfig], against: str, added: tuple[str, ...], counts: Counts
) -> dict[str, RunConfig]:
    """`methods`, then the baselines named in `added`, each once; one that a method already is, is left out.

    against : the reference method, whose settings train on all data. Raises UserError, with the method's name, for a
    cost that cannot be planned.
    """
    found, known = dict(methods), {_key(config) for config in methods.values()}
    for name, config in _offered(methods, against, added, counts):
        if _key(config) in known:
            continue
        known.add(_key(config))
        full = _told_apart(name, config, found)
        with _of_method(full):
            build.trainer(config)
        found[full] = config
    return found


def _told_apart(name: str, config: RunConfig, found: dict[str, RunConfig]) -> str:
    """The name; with what differs from a namesake, if there is one: "random 0.5, warm_start 0.1"."""
    taken = {slug(other, 0): other for other in found}
    if slug(name, 0) not in taken:
        return name
    full = ", ".join([name, *map(_told, list_changes(identity(found[taken[slug(name, 0)]]), identity(config)))])
    full = full if len(full) <= LONGEST else name
    numbered = (f"{full} ({i})" for i in itertools.count(2))
    return next(one for one in itertools.chain([full], numbered) if slug(one, 0) not in taken)


def _told(line: str) -> str:
    """ "a.b.c: 'old' -> 'new'" as "c new"."""
    setting, _, values = line.partition(": ")
    new = values.rpartition(" -> ")[2].strip("'")
    return f"{setting.rpartition('.')[2]} {new}"


def _offered(
    methods: dict[str, RunConfig], against: str, added: tuple[str, ...], counts: Counts
) -> Iterator[tuple[str, RunConfig]]:
    """(name, settings) of all baselines of all methods, random ones of the same budget first."""
    full = _whole(methods[against])
    savers = {name: config for name, config in methods.items() if _saves(config) and not _is_random(config)}
    if "random" in added:
        yield from (random_like(config) for config in savers.values())
    for name, config in savers.items():
        with _of_method(name):
            cost = planned_cost(config, counts)
            own = replace(full, data=config.data, model=config.model, objective=config.objective)
            whole = planned_cost(own, counts)
        if cost >= whole:
            continue  # nothing is saved, so there is nothing to spend otherwise
        if "random_of_cost" in added:
            yield from random_of_cost(config, cost, counts)
        if "shortened" in added:
            yield shortened(own, cost, counts)
        if "fewer_steps" in added:
            yield from fewer_steps(own, cost, counts)
    for name, make in (("fat", fat), ("n_fgsm", n_fgsm)):
        if name in added and savers and getattr(full.attack, "norm", None) == "linf" and attacked(full.objective):
            yield make(full)


@contextlib.contextmanager
def _of_method(name: str) -> Iterator[None]:
    """What is raised inside names the method."""
    try:
        yield
    except UserError as error:
        raise type(error)(*(f"method {name!r}: {problem}" for problem in error.problems)) from None


def _saves(config: RunConfig) -> bool:
    return config.minibatch is not None or config.selection is not None and config.selection.budget < 1


def _is_random(config: RunConfig) -> bool:
    by_rule = config.minibatch is None or isinstance(config.minibatch, (RandomSubset, RandomMix))
    return by_rule and (config.selection is None or isinstance(config.selection.solver, Random))


def _key(config: RunConfig) -> str:
    """What is the same for two methods that do the same: a random selection does not look at its attack or rows."""
    if config.selection is not None and isinstance(config.selection.solver, Random):
        config = replace(config, selection=_drawn(config.selection))
    return str(identity(config))


def _whole(config: RunConfig) -> RunConfig:
    return replace(config, selection=None, minibatch=None)


def _drawn(selection: SelectionConfig) -> SelectionConfig:
    """The same selection at random: what only matters for gradients is as it is by default."""
    kept = ("partition", "blocks", "budget", "cost", "warm_start", "period", "schedule")
    settings = {name: getattr(selection, name) for name in kept}
    if selection.partition == "per_class_per_gradient":
        settings["partition"] = "per_class"  # without gradients they are the same
    redraw = selection.solver.redraw if isinstance(selection.solver, Random) else True
    return SelectionConfig(solver=Random(redraw=redraw), **settings)


def random_like(config: RunConfig) -> tuple[str, RunConfig]:
    """The same budget, warm start and periods, or the same share of each batch, drawn at random."""
    names, rule, chosen = [], config.minibatch, config.selection
    if chosen is not None:
        names.append(f"random, cost {chosen.cost:.4g}" if chosen.cost is not None else f"random {chosen.budget:.4g}")
        chosen = _drawn(chosen)
    if isinstance(rule, UpdateSubset):
        names.append(f"random mix {rule.p_up:.4g}")
        rule = rule if isinstance(rule, RandomMix) else RandomMix(p_up=rule.p_up)
    elif rule is not None:
        names.append(f"random minibatch {rule.rho:.4g}")
        rule = RandomSubset(**{name: getattr(rule, name) for name in ("rho", "clean")})
    return " x ".join(names), replace(config, selection=chosen, minibatch=rule)


def random_of_cost(config: RunConfig, cost: float, counts: Counts) -> Iterator[tuple[str, RunConfig]]:
    """`random_like`, with what choosing costs spent on more examples: the largest budget, else the largest part of each
    batch to attack, that `cost` pays for. Nothing where neither adds a hundredth to the cost."""
    rule, chosen, options = config.minibatch, config.selection, []
    if chosen is not None and chosen.cost is not None:
        return  # `random_like` has that cost
    if chosen is not None:
        options.append(replace(config, selection=replace(chosen, budget=SelectionConfig.budget, cost=round(cost, 4))))
    size = config.training.batch_size
    if isinstance(rule, AttackSubset) and size > 1:
        parts = [replace(config, minibatch=replace(rule, rho=math.ceil(1e4 * k / size) / 1e4)) for k in range(1, size)]
        options.append(parts[largest(lambda i: _planned(parts[i], counts) <= cost, 0, size - 2)])
    plain = _planned(config, counts)
    for option in options:
        if plain + 0.01 * cost <= _planned(option, counts) <= cost + 1e-4:  # a wanted cost has four digits
            yield f"random of cost {cost:.2g}", random_like(option)[1]
            return


def _planned(config: RunConfig, counts: Counts) -> float:
    """What `random_like` costs; infinite where the trainer refuses it, or nothing random costs what is wanted."""
    try:
        return planned_cost(random_like(config)[1], counts)
    except UserError:
        return math.inf


def lasting(config: RunConfig, epochs: int) -> RunConfig:
    """Of so many epochs; what the learning rate counts in epochs, milestones and a ramp, is as much earlier."""
    share, schedule = epochs / config.training.epochs, config.training.lr_schedule
    if isinstance(schedule, MultiStep):
        milestones = [max(1, round(milestone * share)) for milestone in schedule.milestones]
        schedule = replace(schedule, milestones=milestones, ramp=math.ceil(schedule.ramp * share))
    return replace(config, training=replace(config.training, epochs=epochs, lr_schedule=schedule))


def _epochs(config: RunConfig, cost: float, counts: Counts) -> int:
    """How many epochs of `config` cost nearest to `cost`: at most half of one above it, and never more than it has."""
    most = config.training.epochs
    return min(most, max(1, round(cost / (planned_cost(config, counts) / most))))


def shortened(full: RunConfig, cost: float, counts: Counts) -> tuple[str, RunConfig]:
    """All data for the number of epochs whose cost is nearest."""
    epochs = _epochs(full, cost, counts)
    return f"shortened to {epochs} epoch{'' if epochs == 1 else 's'}", lasting(full, epochs)


def fewer_steps(full: RunConfig, cost: float, counts: Counts) -> Iterator[tuple[str, RunConfig]]:
    """All data, attacked with fewer steps, each as long as so many should be (one in the linf ball: as FAT's, since
    longer ones are known to collapse): the fewest that use the cost up within
    the full run's epochs, shortened to meet it. Nothing for an attack of one step, or of none."""
    steps = getattr(full.attack, "steps", None)
    if steps is None or steps < 2:
        return
    for fewer in range(1, steps):
        config = replace(full, attack=_of_steps(full.attack, fewer), training=replace(full.training, attack_steps=None))
        epoch = planned_cost(config, counts) / full.training.epochs
        if planned_cost(config, counts) >= cost - epoch / 2 or fewer == steps - 1:
            break
    epochs = _epochs(config, cost, counts)
    whole = epochs == full.training.epochs
    yield f"fewer steps ({fewer}{'' if whole else f', {epochs} epochs'})", lasting(config, epochs)


def _of_steps(attack: Any, steps: int) -> Any:
    if not hasattr(attack, "step_size"):
        return attack.changed(steps=steps)
    single = steps == 1 and attack.norm == "linf"
    return attack.changed(steps=steps, step_size=FAT_STEP * attack.eps if single else None)


def fat(full: RunConfig) -> tuple[str, RunConfig]:
    """Fast adversarial training (Wong et al. 2020): one step of 1.25 eps from a uniform start, all epochs."""
    eps = full.attack.eps
    return "FAT", _by(full, LinfPGD(eps=eps, steps=1, step_size=FAT_STEP * eps))


def n_fgsm(full: RunConfig) -> tuple[str, RunConfig]:
    """N-FGSM (de Jorge et al. 2022) with its own settings, all epochs."""
    return "N-FGSM", _by(full, NFGSM(eps=full.attack.eps))


def _by(full: RunConfig, attack: Any) -> RunConfig:
    return replace(full, attack=attack, training=replace(full.training, attack_steps=None, memory=Memory()))
