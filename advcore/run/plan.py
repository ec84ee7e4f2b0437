"""The plan of a run: what it will do, its cost relative to full training, its memory, and what may be unexpected."""

from dataclasses import dataclass, field, replace

import torch
from torch import nn

from advcore.attacks.memory import refuse_unmoved
from advcore.config.schema import RunConfig, SelectionConfig
from advcore.data.base import Data
from advcore.data.pool import Pooled, find_candidates, find_goal
from advcore.errors import check, format_count, require
from advcore.rng import Stream
from advcore.rows.row_store import settle_place
from advcore.run import build
from advcore.run.explanations import explain_epochs, explain_ramps, explain_when
from advcore.run.pretrained import Beginning
from advcore.selection.duration import settle_minutes
from advcore.selection.memory import Estimate, estimate_for, settle
from advcore.solvers.uniform import Random
from advcore.training.budget import Offer, find_budget_at_cost, list_offers
from advcore.training.caught_rows import count_refreshed, count_row_bytes
from advcore.training.minibatch import is_bound
from advcore.training.plan import PlannedWork, Reference, plan_parts, plan_reference, plan_selection
from advcore.training.prices import Prices, find_prices
from advcore.training.trainer import Trainer
from advcore.work import Work

_NEAR = 0.95  # of a wanted cost; the plan mentions a cost that is below it


@dataclass(frozen=True)
class Plan:
    """What a run will do, what it will cost, and what it will hold in memory.

    text : the plan in one line. work : its passes. relative_cost : its operations over those of the reference, or its
    passes where operations are not counted. memory : sizes of the largest things held, by name. notes : explanations of
    what may surprise in the plan, by what they are about.
    """

    text: str
    work: Work
    relative_cost: float
    reference: Reference
    memory: dict[str, str] = field(repr=False)
    notes: dict[str, str] = field(default_factory=dict, repr=False)


def make_plan(
    config: RunConfig,
    trainer: Trainer,
    data: Data,
    model: nn.Module,
    wanted: float | None,
    beginning: Beginning | None = None,
) -> Plan:
    """Return what the run will do, its cost relative to the reference, and what it will hold in memory.

    wanted : the cost that the budget was computed for; None where the budget was set. beginning : the trained weights
    that the run begins from; None for random ones.
    """
    n = len(data.train)
    prices = find_prices(trainer, model, data.train)
    compared = find_reference(config, n, prices)
    planned = plan_parts(trainer, n, build.count_held_out(data), len(find_candidates(data.train)))
    cost = compared.relate(planned.total)
    estimate = _estimate_selection(trainer, data, model)
    notes = {
        "weights": beginning and beginning.describe(config),
        "pool": _explain_pool(trainer, data),
        "epochs": explain_epochs(trainer.schedule),
        "cost": explain_cost(trainer, planned, compared, len(find_candidates(data.train))),
        "operations": prices.problem and f"cost counts passes alone: {prices.problem}",
        "when": explain_when(trainer.schedule),
        "time": _explain_time(trainer, estimate, data.train.device),
        "ramps": explain_ramps(trainer, n, compared.epochs),
    }
    return Plan(
        text=_summarise(config, trainer, cost, wanted),
        work=planned.total,
        relative_cost=cost,
        reference=compared,
        memory=_estimate_memory(trainer, data, model, estimate),
        notes={subject: note for subject, note in notes.items() if note},
    )


def _summarise(config: RunConfig, trainer: Trainer, cost: float, wanted: float | None) -> str:
    """Return the plan in one line."""
    method = ", ".join(part.describe() for part in (trainer.schedule, config.minibatch) if part)
    text = f"{method}: {cost:.2f} of full training"
    if cost > 1:
        text += f"; full training {_choose_verb(trainer)} cheaper"
    if wanted is not None and cost < _NEAR * wanted:
        text += f", below the {wanted:g} asked for: the next larger budget takes one more epoch and costs too much"
    return text


def _choose_verb(trainer: Trainer) -> str:
    """Return with what certainty a plan above full training's cost says so: the cost of some rules is a bound."""
    return "may be" if is_bound(trainer.minibatch) else "is"


def _explain_pool(trainer: Trainer, data: Data) -> str | None:
    """Say how often the images of a pool, and the real ones, are trained on; None where there is no pool."""
    train = data.train
    if not isinstance(train, Pooled):
        return None
    visits = trainer.schedule.length * train.share * len(train) / len(train.pool)
    real = trainer.schedule.length * (1 - train.share)
    chosen = ""
    if trainer.schedule.is_beside_pool:
        chosen = f", the {trainer.get_selector().count_chosen(len(train.pool)):,} of each selection more often"
    return (
        f"{100 * train.share:g} % of each batch comes from a pool of {len(train.pool):,} images; an epoch has as many "
        f"steps as without it, so a real image is trained on about {real:.2g} times, a pool image {visits:.2g} "
        f"times{chosen}"
    )


def _estimate_selection(trainer: Trainer, data: Data, model: nn.Module) -> Estimate | None:
    if trainer.selector is None:
        return None
    goal = find_goal(data.train, data.validation, trainer.selector.target)
    return estimate_for(trainer.selector, model, find_candidates(data.train), len(goal or ()))


def _explain_time(trainer: Trainer, estimate: Estimate | None, device: torch.device) -> str | None:
    """Say how long each selection solves, if that is long. Raises ConfigError if it is more than is allowed."""
    if estimate is None or trainer.selector is None:
        return None
    with build.prefix_problems("selection."):
        events = settle_minutes(estimate.work, trainer.selector.max_minutes, device)
    return "".join(f"in each selection, {event}" for event in events) or None


def _estimate_memory(trainer: Trainer, data: Data, model: nn.Module, estimate: Estimate | None) -> dict[str, str]:
    """Return what a run holds, in MB: images, parameters with gradients and momentum, and a selection at its peak.

    Raises ConfigError if a selection does not fit into `selection.memory_limit` even with its rows in a file, or if
    remembered perturbations do not fit, or could not move with the images.
    """
    sizes = {
        "images": data.train.nbytes,
        "model and optimiser": 3 * sum(p.numel() * p.element_size() for p in model.parameters()),
    }
    if trainer.remembers:
        sizes["remembered perturbations"] = trainer.estimate_memory(data.train.index_count, data.train.shape)
        with build.prefix_problems("training."):
            trainer.memory.settle(sizes["remembered perturbations"], data.train.device)
        with build.prefix_problems("data."):
            refuse_unmoved(data.augment, data.train.shape, Stream(seed=0, purpose="augment"))
    caught = count_row_bytes(trainer, model, data.train)
    if caught is not None:
        sizes["rows caught in training"] = caught
        with build.prefix_problems("selection."):
            settle_place(trainer.get_selector().rows_place, caught, data.train.device)
    memory = {name: _format_megabytes(size) for name, size in sizes.items()}
    selector = trainer.selector
    if estimate is None or selector is None:
        return memory
    with build.prefix_problems("selection."):
        estimate, events = settle(estimate, selector.memory_limit, data.train.device)
    rows = _format_megabytes(estimate.rows)
    measured = {"gradient rows": f"{rows} in a temporary file" if events else rows}
    if not estimate.rows:
        measured = {}
    return {
        **measured,
        **memory,
        "largest problem": _format_megabytes(estimate.problem + estimate.matrix + estimate.solver),
        "selection at its peak": _format_megabytes(estimate.peak),
    }


def _format_megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def settle_budget(config: RunConfig, trainer: Trainer, n: int, held_out: int, prices: Prices | None) -> RunConfig:
    """Return the config with the budget that `selection.cost` pays for, in place of that cost, if it has one.

    n, held_out : how many training and validation examples there are. prices : what passes cost; None compares passes.
    Raises ConfigError where no budget has the cost.
    """
    selection = config.selection
    if selection is None or selection.cost is None:
        return config
    return replace_cost(
        config, find_budget_at_cost(trainer, n, held_out, selection.cost, find_reference(config, n, prices))
    )


def replace_cost(config: RunConfig, budget: float) -> RunConfig:
    """Return the config with a budget in place of `selection.cost`."""
    assert config.selection is not None, "there is a cost to replace"
    return replace(config, selection=replace(config.selection, budget=budget, cost=None))


def find_offers(config: RunConfig, data: Data, cost: float, prices: Prices | None) -> list[Offer]:
    """Return runs near a wanted cost (`training.budget.list_offers`) that start from these settings.

    Where the config selects nothing, they train on random subsets. Raises ConfigError with a pool.
    """
    way_out = "the runs that it lists train on coresets of the real data"
    require(check(not isinstance(data.train, Pooled), "--cost", "left out with data.pool", cost, way_out))
    if config.selection is None:
        config = replace(config, selection=SelectionConfig(solver=Random()))
    n = len(data.train)
    reference = find_reference(config, n, prices)
    return list_offers(build.build_trainer(config), n, build.count_held_out(data), cost, reference)


def find_reference(config: RunConfig, n: int, prices: Prices | None) -> Reference:
    """Return the run that costs are relative to.

    n : training examples. prices : what passes cost; None compares passes.
    """
    return plan_reference(
        config.objective,
        config.attack,
        n,
        epochs=config.cost.reference_epochs or config.training.epochs,
        steps=config.cost.reference_steps,
        prices=prices,
    )


def _name_candidates(trainer: Trainer) -> str:
    return "images of the pool" if trainer.schedule.is_beside_pool else "training examples"


def explain_cost(trainer: Trainer, planned: PlannedWork, reference: Reference, n: int) -> str | None:
    """Say why a run costs more than full training, and what would make it cheaper; None for a run that costs less.

    n : examples that each selection chooses from, all of which it looks at: the training ones, or those of a pool.
    """
    total = reference.relate(planned.total)
    if total <= 1:
        return None
    reasons = []
    ways = []
    selector = trainer.selector
    if selector is not None and planned.selection.units:
        count = sum(epoch.action == "select" for epoch in trainer.schedule.plan())
        passes = f"{plan_selection(selector).units} passes for each of {n:,} {_name_candidates(trainer)}"
        refreshed = sum(count_refreshed(trainer, n))
        if refreshed:
            passes = f"{refreshed:,} rows remeasured between them"
        share = reference.relate(planned.selection)
        reasons.append(f"{share:.2f} for {format_count(count, 'selection')} ({passes})")
        if count > 1:
            ways.append("a longer selection.period")
        if getattr(selector.attack, "steps", 1) > 1:
            ways.append("fewer steps in selection.attack")
        ways.append("more training.epochs with as many selections")
    if planned.scores.units:
        reasons.append(f"{reference.relate(planned.scores):.2f} for scores over epochs")
        ways += ["fewer selection.probe_epochs", "scores from a file (advcore score)"]
    training = reference.relate(planned.training)
    if training > 1 or not reasons:
        reasons.append(f"{training:.2f} for training steps")
        ways += ["fewer training.epochs", "fewer attack.steps"]
        if trainer.minibatch:
            ways.append("no minibatch rule")
    return (
        f"full training {_choose_verb(trainer)} cheaper: this run costs {total:.2f}, {' and '.join(reasons)}; "
        f"{', '.join(ways[:-1])} or {ways[-1]} would cost less"
    )
