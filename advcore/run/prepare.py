"""Prepare a run: load the data, build model and trainer, and make the plan, so that all settings are checked first."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeGuard, TypeVar

import torch
from torch import nn

from advcore import distributed
from advcore.adversary import attack as attack_images
from advcore.adversary import bind_attack
from advcore.attacks.base import Attack
from advcore.config.load import from_dict
from advcore.config.schema import RunConfig
from advcore.cost import CostLedger
from advcore.data.augment import augment_images
from advcore.data.base import Data
from advcore.data.contract import read_batches
from advcore.data.pool import Pooled
from advcore.errors import check, require
from advcore.evaluation.autoattack import AutoAttack
from advcore.reporting.record import RunRecord
from advcore.rng import Stream, preserve_random_state
from advcore.rows import Rows
from advcore.run import build, weights
from advcore.run.plan import Plan, make_plan, replace_cost, settle_budget
from advcore.run.pretrained import Beginning, load_beginning
from advcore.run.teacher import label_pool, list_costs
from advcore.training.prices import find_prices
from advcore.training.progress import Listener, ignore
from advcore.training.trainer import Trainer
from advcore.types import is_ours

Kind = TypeVar("Kind")


class MeasuringAttack(Protocol):
    """An attack that measures distances in the best model of the run whose folder is `network`."""

    network: str

    def by(self, network: nn.Module) -> Attack:
        """Return the attack with its distance measured in a frozen copy of `network`."""


@dataclass(frozen=True)
class Prepared:
    """A run that is checked: everything that can fail for a wrong setting has been built.

    scores : rows for a solver that reads them from a file. inputs : files that the run read, and the wanted cost, by
    setting. pretraining : the run whose weights it begins with, as in its record.
    """

    config: RunConfig
    data: Data
    model: nn.Module
    trainer: Trainer
    plan: Plan
    scores: Rows | None = None
    inputs: dict[str, object] = field(default_factory=dict)
    pretraining: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reporter(Listener):
    """A listener that also receives the plan, and the name of the weights ("last", "best") that are being evaluated."""

    on_plan: Callable[[Plan], None] = ignore
    on_final: Callable[[str], None] = ignore


def prepare(
    config: RunConfig,
    *,
    scores: bool = True,
    initial: bool = True,
    pool_labels: bool = True,
    budget: float | None = None,
) -> Prepared:
    """Read and check the data, build model and trainer, and make the plan; train nothing.

    scores : also read the file of scores that the solver names, which only a selection needs.
    initial : also read the weights to begin with, if the settings name some.
    pool_labels : also let a teacher label the pool, if the settings name one, which only training and selecting need.
    budget : of a continued run (`resume.find_budget`), in place of what `selection.cost` pays for in this version.

    The trainer comes first: it needs no data, so that a wrong setting is reported before anything is read. It is built
    again where settings were completed with the help of the data: by the budget for a cost, or by networks.
    """
    trainer = build.build_trainer(config)
    device = build.choose_device(config)
    _load_trackers(config)
    data = build.load_data(config, trainer, device)
    model = build.build_model(config, data, device)
    beginning = load_beginning(model, config, data) if initial else None
    completed = load_networks(config, data, device)
    wanted = getattr(config.selection, "cost", None)
    if wanted is not None:
        completed = _settle_budget(completed, data, model, budget)
    if completed is not config:
        trainer = build.build_trainer(completed)
    _try_attacks(completed, model)
    trainer.check(model, data.train)
    _try_plugins(completed, data, model)
    data, labelled = label_pool(config, data, device) if pool_labels else (data, {})
    rows, inputs = build.load_scores(trainer, data) if scores else (None, {})
    inputs |= labelled | _list_inputs(completed, beginning, wanted)
    plan = make_plan(completed, trainer, data, model, wanted, beginning)
    spent = _describe_pretraining(beginning, inputs)
    return Prepared(completed, data, model, trainer, plan=plan, scores=rows, inputs=inputs, pretraining=spent)


def _load_trackers(config: RunConfig) -> None:
    if distributed.is_first():
        for tracker in config.tracking:
            tracker.load()


def _list_inputs(config: RunConfig, beginning: Beginning | None, wanted: float | None) -> dict[str, object]:
    """Return the files that a run reads besides data and scores, and the wanted cost, by setting."""
    inputs: dict[str, object] = {**_hash_networks(config)}
    if beginning is not None:
        inputs |= beginning.list_inputs()
    if wanted is not None:
        inputs["selection.cost"] = wanted
    return inputs


def _try_attacks(config: RunConfig, model: nn.Module) -> None:
    """Bind each attack of a run to its model, which refuses those that do not fit it."""
    for path, attack in build.list_attacks(config).items():
        if isinstance(attack, AutoAttack):
            continue  # it needs nothing of the model before it runs
        with build.prefix_problems(f"{path}."):
            bind_attack(attack, model, CostLedger().count_passes)  # of which nothing is kept


def _settle_budget(config: RunConfig, data: Data, model: nn.Module, budget: float | None) -> RunConfig:
    """Return the config with this budget in place of `selection.cost`; None for what that pays for.

    Raises ConfigError with a pool.
    """
    way_out = "an epoch costs the same however few images of the pool are chosen; set selection.budget"
    is_alone = not isinstance(data.train, Pooled)
    require(
        check(is_alone, "selection.cost", "null with data.pool", config.selection and config.selection.cost, way_out)
    )
    if budget is not None:
        return replace_cost(config, budget)
    trainer = build.build_trainer(config)
    prices = find_prices(trainer, model, data.train)
    with build.prefix_problems("selection."):
        return settle_budget(config, trainer, len(data.train), build.count_held_out(data), prices)


def _describe_pretraining(beginning: Beginning | None, inputs: dict) -> dict[str, object]:
    """Return {run, passes, flops} of the runs that wrote weights, scores and labels among the inputs, where known.

    flops is left out where some operations were not counted.
    """
    runs: dict[str, dict[str, int]] = {}
    if beginning is not None:
        runs |= weights.find_pretraining(beginning.path)
    scores = inputs.get("selection.solver.scores", {})
    if "passes" in scores:
        runs[scores["path"]] = scores
    runs |= list_costs(inputs)
    if not runs:
        return {}
    facts: dict[str, object] = {"run": ", ".join(runs)}
    for unit in ("passes", "flops"):
        if all(unit in spent for spent in runs.values()):
            facts[unit] = sum(spent[unit] for spent in runs.values())
    return facts


def _try_plugins(config: RunConfig, data: Data, model: nn.Module) -> None:
    """Augment and attack two images with what plug-ins brought, so that its faults are found before any training."""
    attacks = {
        path: attack
        for path, attack in build.list_attacks(config).items()
        if isinstance(attack, Attack) and not is_ours(attack)
    }
    if not attacks and is_ours(data.augment):
        return
    indices, x, y = next(read_batches(model, data.train, [torch.arange(min(2, len(data.train)))]))
    stream = Stream(seed=config.seed, purpose="plug-ins").at(indices)
    with preserve_random_state():
        with build.prefix_problems("data."):
            augmented = augment_images(data.augment, x.clone(), stream)
            rule = "a function that returns images of the same size"
            require(check(augmented.shape == x.shape, "augment", rule, tuple(augmented.shape)))
        for path, attack in attacks.items():
            objective = None if path.startswith("evaluation.") else config.objective
            with build.prefix_problems(f"{path}: "):
                attack_images(model, x, y, attack, objective=objective, seed=stream)


def load_networks(config: RunConfig, data: Data, device: torch.device) -> RunConfig:
    """Return the config in which each attack that names a run's folder measures distances in that run's best model.

    That is the config itself where no attack does.
    """
    if not any(map(_names_network, build.list_attacks(config).values())):
        return config

    selection = config.selection
    attacks = [_load_network(attack, data, device) for attack in config.evaluation.attacks]
    return replace(
        config,
        attack=_load_network(config.attack, data, device),
        selection=selection and replace(selection, attack=_load_network(selection.attack, data, device)),
        evaluation=replace(config.evaluation, attacks=attacks),
    )


def _names_network(attack: object) -> TypeGuard[MeasuringAttack]:
    return bool(getattr(attack, "network", None))


def _load_network(attack: Kind, data: Data, device: torch.device) -> Kind | Attack:
    if not _names_network(attack):
        return attack
    folder = Path(attack.network)
    config = from_dict(RunRecord.load(folder / "record.json").config)
    model = build.build_model(config, data, device)
    weights.load_state(model, weights.find_checkpoint(folder, "best"))
    return attack.by(model)


def _hash_networks(config: RunConfig) -> dict[str, str]:
    """Return the sha256 of the weights of each such model that training depends on; evaluations may use others."""
    return {
        f"{path}.network": weights.compute_weights_hash(weights.find_checkpoint(Path(attack.network), "best"))
        for path, attack in build.list_attacks(config).items()
        if _names_network(attack) and not path.startswith("evaluation.")
    }
