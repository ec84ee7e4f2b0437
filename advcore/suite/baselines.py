"""Add the obvious alternatives to a coreset or a minibatch rule to a suite, as baselines of the same relative cost.

Pure but for `extents`, which says how many examples a method's data have, and what its network's passes cost.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

from advcore.attacks import NFGSM, LinfPGD
from advcore.attacks.base import Attack
from advcore.attacks.memory import Memory
from advcore.config.load import Change, list_changes
from advcore.config.run_key import identify
from advcore.config.schema import RunConfig, SelectionConfig
from advcore.errors import UserError, format_value
from advcore.minibatch.base import AttackSubset, UpdateSubset, is_reattack
from advcore.minibatch.epoch_subset import EpochSubset
from advcore.minibatch.uniform import RandomMix, RandomSubset
from advcore.minibatch.whole_batch import WholeBatch
from advcore.objectives.base import is_attacked
from advcore.run import build
from advcore.solvers.uniform import Random
from advcore.suite.equal_cost import FindExtent, plan_cost, set_epochs
from advcore.suite.layout import LONGEST, make_slug
from advcore.training.budget import find_largest

# Step size of FAT over eps. Wong et al. 2020, algorithm 3: alpha 10/255 for eps 8/255.
FAT_STEP = 1.25


def add_baselines(
    methods: dict[str, RunConfig], against: str, added: tuple[str, ...], extents: FindExtent
) -> dict[str, RunConfig]:
    """Return `methods` and then the baselines named in `added`, without repetitions.

    A baseline that is one of the methods already is left out.

    against : the reference method, whose settings train on all data. Raises UserError, with the method's name, for a
    cost that cannot be planned.
    """
    named = dict(methods)
    keys = {_compute_key(config) for config in methods.values()}
    for name, config in _list_baselines(methods, against, added, extents):
        if _compute_key(config) in keys:
            continue
        keys.add(_compute_key(config))
        unique = _make_unique(name, config, named)
        with build.prefix_problems(f"method {unique!r}: "):
            build.build_trainer(config)
        named[unique] = config
    return named


def _make_unique(name: str, config: RunConfig, methods: dict[str, RunConfig]) -> str:
    """Return the name, extended by what differs from a namesake if there is one: "random 0.5, warm_start 0.1"."""
    names = {make_slug(other, 0): other for other in methods}
    namesake = names.get(make_slug(name, 0))
    if namesake is None:
        return name
    changes = list_changes(identify(methods[namesake]), identify(config))
    full = ", ".join([name, *map(_shorten_change, changes)])
    if len(full) > LONGEST:
        full = name
    numbered = (f"{full} ({i})" for i in itertools.count(2))
    return next(candidate for candidate in itertools.chain([full], numbered) if make_slug(candidate, 0) not in names)


def _shorten_change(change: Change) -> str:
    """Write a change of a.b.c as "c new"."""
    new = format_value(change.new).strip("'")
    return f"{change.path.rpartition('.')[2]} {new}"


def _list_baselines(
    methods: dict[str, RunConfig], against: str, added: tuple[str, ...], extents: FindExtent
) -> Iterator[tuple[str, RunConfig]]:
    """Yield name and settings of all baselines of all methods, those with random subsets of the same budget first."""
    reference = replace(methods[against], selection=None, minibatch=None)
    savers = {name: config for name, config in methods.items() if _saves_work(config) and not _is_random(config)}
    if "random" in added:
        yield from (make_random(config) for config in savers.values() if _has_random_twin(config))
    if "random_static" in added:
        yield from (make_random_static(config) for config in savers.values() if config.selection is not None)
    for name, config in savers.items():
        with build.prefix_problems(f"method {name!r}: "):
            full = replace(reference, data=config.data, model=config.model, objective=config.objective)
            cost = plan_cost(config, extents)
            full_cost = plan_cost(full, extents)
        if cost >= full_cost:
            continue  # nothing is saved, so there is nothing to spend otherwise
        if "random_of_cost" in added:
            yield from make_random_of_cost(config, cost, extents)
        if "shortened" in added:
            yield shorten_training(full, cost, extents)
        if "fewer_steps" in added:
            yield from use_fewer_steps(full, cost, extents)
    attack = reference.attack
    if savers and is_attacked(reference.objective) and isinstance(attack, Attack) and attack.norm == "linf":
        yield from _list_single_step(reference, attack.eps, added)


def _saves_work(config: RunConfig) -> bool:
    """Return whether a method trains on, or attacks, less than all data."""
    return config.minibatch is not None or config.selection is not None and config.selection.budget < 1


def _is_random(config: RunConfig) -> bool:
    by_rule = config.minibatch is None or isinstance(config.minibatch, (RandomSubset, RandomMix))
    return by_rule and (config.selection is None or isinstance(config.selection.solver, Random))


def _has_random_twin(config: RunConfig) -> bool:
    """Return whether something random can choose in a method's place: rules that pick nothing of a batch have none."""
    return config.selection is not None or not isinstance(config.minibatch, (WholeBatch, EpochSubset))


def _compute_key(config: RunConfig) -> str:
    """Return a key that is the same for methods that do the same.

    A random selection does not look at its attack or its rows, so these do not count.
    """
    if config.selection is not None and isinstance(config.selection.solver, Random):
        config = replace(config, selection=_select_at_random(config.selection))
    return str(identify(config))


def _select_at_random(selection: SelectionConfig) -> SelectionConfig:
    """Return the same selection with a random solver, and with defaults for what matters for gradients only."""
    shared = ("partition", "blocks", "budget", "cost", "warm_start", "period", "schedule")
    settings = {name: getattr(selection, name) for name in shared}
    if selection.partition == "per_class_per_gradient":
        settings["partition"] = "per_class"  # without gradients they are the same
    return SelectionConfig(solver=Random(redraw=getattr(selection.solver, "redraw", True)), **settings)


def make_random(config: RunConfig) -> tuple[str, RunConfig]:
    """Return the method that draws its subsets at random, and a name for it.

    Budget, warm start and period, or the share of each batch, stay the same; so does a rule over epochs.
    """
    names = []
    rule = config.minibatch
    selection = config.selection
    if selection is not None:
        names.append(
            f"random {selection.budget:.4g}" if selection.cost is None else f"random, cost {selection.cost:.4g}"
        )
        selection = _select_at_random(selection)
    if isinstance(rule, UpdateSubset):
        names.append(f"random mix {rule.p_up:.4g}")
        if not isinstance(rule, RandomMix):
            rule = RandomMix(p_up=rule.p_up)
    elif isinstance(rule, AttackSubset):
        names.append(f"random minibatch {rule.rho:.4g}")
        correction = rule.correction if is_reattack(rule) else "none"
        rule = RandomSubset(rho=rule.rho, clean=rule.clean, rest=rule.rest, correction=correction)
    return " x ".join(names), replace(config, selection=selection, minibatch=rule)


def make_random_static(config: RunConfig) -> tuple[str, RunConfig]:
    """Return the method of `make_random` with one random subset for the whole run, and a name for it.

    Reference: Kaufmann et al. 2022 (arXiv 2207.00694), who drop random examples for ever. Differs: after the method's
    own warm start on all data.
    """
    name, twin = make_random(config)
    assert twin.selection is not None, "there is a selection to draw in place of"
    selection = replace(twin.selection, solver=Random(redraw=False))
    return name.replace("random", "random static", 1), replace(twin, selection=selection)


def make_random_of_cost(config: RunConfig, cost: float, extents: FindExtent) -> Iterator[tuple[str, RunConfig]]:
    """Yield the method of `make_random` that spends what selecting costs on more examples, up to the same `cost`.

    It has the largest budget that this pays for, or else attacks the largest part of each batch. Nothing is yielded
    where neither adds a hundredth to the cost.
    """
    selection = config.selection
    if selection is not None and selection.cost is not None:
        return  # `make_random` has that cost
    options = []
    if selection is not None:
        selection = replace(selection, budget=SelectionConfig.budget, cost=round(cost, 4))
        options.append(replace(config, selection=selection))
    size = config.training.batch_size
    if isinstance(config.minibatch, AttackSubset) and size > 1:
        shares = [math.ceil(1e4 * k / size) / 1e4 for k in range(1, size)]  # k of the examples of a batch are attacked
        parts = [replace(config, minibatch=replace(config.minibatch, rho=share)) for share in shares]
        options.append(parts[find_largest(lambda i: _cost_at_random(parts[i], extents) <= cost, 0, size - 2)])
    plain = _cost_at_random(config, extents)
    for option in options:
        if plain + 0.01 * cost <= _cost_at_random(option, extents) <= cost + 1e-4:  # a wanted cost has four digits
            yield f"random of cost {cost:.2g}", make_random(option)[1]
            return


def _cost_at_random(config: RunConfig, extents: FindExtent) -> float:
    """Return the cost of `make_random`: infinite where the trainer refuses it, or no budget has the wanted cost."""
    try:
        return plan_cost(make_random(config)[1], extents)
    except UserError:
        return math.inf


def _find_epochs(config: RunConfig, cost: float, extents: FindExtent) -> int:
    """Return how many epochs of `config` cost nearest to `cost`: at most half an epoch above it, at most all."""
    most = config.training.epochs
    return min(most, max(1, round(cost / (plan_cost(config, extents) / most))))


def shorten_training(full: RunConfig, cost: float, extents: FindExtent) -> tuple[str, RunConfig]:
    """Return training on all data for the number of epochs whose cost is nearest to `cost`, and a name for it."""
    epochs = _find_epochs(full, cost, extents)
    return f"shortened to {epochs} epoch{'' if epochs == 1 else 's'}", set_epochs(full, epochs)


def use_fewer_steps(full: RunConfig, cost: float, extents: FindExtent) -> Iterator[tuple[str, RunConfig]]:
    """Yield training on all data with the fewest attack steps that use up `cost` within the full run's epochs.

    The epochs are then shortened to meet the cost. Steps have the attack's default size for their number; a single step
    in the linf ball has that of FAT, since longer ones are known to collapse. Nothing is yielded for an attack of one
    step, or without steps.
    """
    attack = full.attack
    steps = getattr(attack, "steps", None)
    if attack is None or steps is None or steps < 2:
        return
    full = replace(full, training=replace(full.training, attack_steps=None))
    for fewer in range(1, steps):
        config = replace(full, attack=_set_steps(attack, fewer))
        planned = plan_cost(config, extents)
        if planned >= cost - planned / full.training.epochs / 2:
            break
    epochs = _find_epochs(config, cost, extents)
    shorter = "" if epochs == full.training.epochs else f", {epochs} epochs"
    yield f"fewer steps ({fewer}{shorter})", set_epochs(config, epochs)


def _set_steps(attack: Attack, steps: int) -> Attack:
    if not hasattr(attack, "step_size"):
        return attack.with_settings(steps=steps)
    step_size = None
    if steps == 1 and isinstance(attack, Attack) and attack.norm == "linf":
        step_size = FAT_STEP * attack.eps
    return attack.with_settings(steps=steps, step_size=step_size)


def _list_single_step(full: RunConfig, eps: float, added: tuple[str, ...]) -> Iterator[tuple[str, RunConfig]]:
    """Yield training on all data, for all epochs, by attacks of a single step in the linf ball of radius `eps`.

    FAT (Wong et al. 2020): one step of 1.25 eps from a uniform start. N-FGSM (de Jorge et al. 2022): its own settings.
    """
    training = replace(full.training, attack_steps=None, memory=Memory(), regularizer=None)
    if "fat" in added:
        yield "FAT", replace(full, attack=LinfPGD(eps=eps, steps=1, step_size=FAT_STEP * eps), training=training)
    if "n_fgsm" in added:
        yield "N-FGSM", replace(full, attack=NFGSM(eps=eps), training=training)
