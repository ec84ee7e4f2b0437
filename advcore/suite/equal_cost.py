"""Give the methods of a suite the number of epochs for which they cost what the suite asks for."""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from advcore.config.schema import RunConfig
from advcore.errors import ConfigError, check, format_count, require
from advcore.run import build, plan
from advcore.suite.extents import Extent
from advcore.training.budget import find_largest
from advcore.training.lr import MultiStep
from advcore.training.plan import plan_work

# The examples of a config's data, and what the passes of its network cost.
FindExtent = Callable[[RunConfig], Extent]


def plan_cost(config: RunConfig, extents: FindExtent) -> float:
    """Return the relative cost of a run by its plan: an upper bound where a minibatch rule adapts.

    Raises UserError for a run whose trainer refuses its settings, or whose `selection.cost` no budget has.
    """
    extent = extents(config)
    settled = plan.settle_budget(config, build.build_trainer(config), extent.train, extent.held_out, extent.prices)
    work = plan_work(build.build_trainer(settled), extent.train, extent.held_out, extent.pool)
    return plan.find_reference(config, extent.train, extent.prices).relate(work)


def set_epochs(config: RunConfig, epochs: int) -> RunConfig:
    """Return the config with that many epochs.

    What is counted in epochs moves in proportion: the learning rate's milestones and ramp, the ramp of eps, and the
    first epochs of the head alone and without a weight perturbation.
    """
    share = epochs / config.training.epochs
    training = config.training
    awp = training.awp and replace(training.awp, warm_up=round(training.awp.warm_up * share))
    schedule = training.lr_schedule
    if isinstance(schedule, MultiStep):
        milestones = [max(1, round(milestone * share)) for milestone in schedule.milestones]
        schedule = replace(schedule, milestones=milestones, ramp=math.ceil(schedule.ramp * share))
    training = replace(
        training,
        epochs=epochs,
        lr_schedule=schedule,
        eps_ramp=training.eps_ramp and training.eps_ramp * share,
        head_epochs=math.ceil(training.head_epochs * share),
        awp=awp,
    )
    return replace(config, training=training)


def match_costs(
    methods: Mapping[str, RunConfig], costs: Mapping[str, float], extents: FindExtent
) -> dict[str, RunConfig]:
    """Return `methods`, where each of `costs` has as many epochs as cost nearest to its wanted relative cost.

    The selection of a method keeps its budget. Raises ConfigError, with the method's name, for a wanted cost below that
    of the fewest epochs, and for a method whose selection has a cost already.
    """
    matched = dict(methods)
    for name, wanted in costs.items():
        with build.prefix_problems(f"method {name!r}: "):
            matched[name] = _match_cost(methods[name], wanted, extents)
    return matched


def _match_cost(config: RunConfig, wanted: float, extents: FindExtent) -> RunConfig:
    """Return the config with the number of epochs whose cost is nearest to `wanted`."""
    has_cost = config.selection is not None and config.selection.cost is not None
    require(check(not has_cost, "at_cost", "left out where selection.cost is given", wanted))

    @functools.cache
    def cost_of(epochs: int) -> float:
        return plan_cost(set_epochs(config, epochs), extents)

    fewest = _find_fewest(config, cost_of)
    least = cost_of(fewest)
    rule = f"at least {math.ceil(100 * least) / 100:g}, the cost of {format_count(fewest, 'epoch')}"
    require(check(wanted >= least, "at_cost", rule, wanted))
    most = 2 * fewest
    while cost_of(most) <= wanted:
        most *= 2
    below = find_largest(lambda epochs: cost_of(epochs) <= wanted, fewest, most)
    return set_epochs(config, min((below, below + 1), key=lambda epochs: abs(cost_of(epochs) - wanted)))


def _find_fewest(config: RunConfig, cost_of: Callable[[int], float]) -> int:
    """Return the fewest epochs for which a run can be planned: a warm-up, for example, needs some."""
    for epochs in range(1, config.training.epochs):
        with contextlib.suppress(ConfigError):
            cost_of(epochs)
            return epochs
    return config.training.epochs  # the caller raises the problem, if there is one
