"""Prepare a run: load the data, build model and trainer, and make the plan, so that all settings are checked first."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeGuard, TypeVar

import torch
from torch import nn

from advcore import distributed
from advcore.adversary import bind_attack
from advcore.attacks.base import Attack
from advcore.config.load import from_dict
from advcore.config.schema import RunConfig
from advcore.cost import CostLedger
from advcore.data.base import Data
from advcore.evaluation.autoattack import AutoAttack
from advcore.reporting.record import RunRecord
from advcore.rows import Rows
from advcore.run import build, weights
from advcore.run.plan import Plan, make_plan, settle_budget
from advcore.training.progress import Listener, ignore
from advcore.training.trainer import Trainer

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


def prepare(config: RunConfig, *, scores: bool = True, initial: bool = True) -> Prepared:
    """Read and check the data, build model and trainer, and make the plan; train nothing.

    scores : also read the file of scores that the solver names, which only a selection needs.
    initial : also read the file of weights to begin with, if the settings name one.

    The trainer comes first: it needs no data, so that a wrong setting is reported before anything is read. It is built
    again where settings were completed with the help of the data: by the budget for a cost, or by networks.
    """
    trainer = build.build_trainer(config)
    device = build.choose_device(config)
    if distributed.is_first():
        for tracker in config.tracking:
            tracker.load()
    data = build.load_data(config, trainer, device)
    wanted = getattr(config.selection, "cost", None)
    with build.prefix_problems("selection."):
        completed = settle_budget(config, trainer, len(data.train), build.count_held_out(data))
    model = build.build_model(completed, data, device, initial=initial)
    completed = _load_networks(completed, data, device)
    if completed is not config:
        trainer = build.build_trainer(completed)
    for path, attack in build.list_attacks(completed).items():
        if isinstance(attack, AutoAttack):
            continue  # it needs nothing of the model before it runs
        with build.prefix_problems(f"{path}."):
            bind_attack(attack, model, CostLedger().count_passes)  # of which nothing is kept
    trainer.check(model, data.train)
    rows, inputs = build.load_scores(trainer, data) if scores else (None, {})
    inputs |= _hash_networks(completed)
    pretraining: dict[str, object] = {}
    if initial and config.model.weights is not None:
        inputs["model.weights"] = weights.compute_weights_hash(Path(config.model.weights))
        pretraining = weights.describe_pretraining(Path(config.model.weights))
    if wanted is not None:
        inputs["selection.cost"] = wanted
    plan = make_plan(completed, trainer, data, model, wanted)
    return Prepared(completed, data, model, trainer, plan=plan, scores=rows, inputs=inputs, pretraining=pretraining)


def _load_networks(config: RunConfig, data: Data, device: torch.device) -> RunConfig:
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
    model = build.build_model(config, data, device, initial=False)
    weights.load_state(model, weights.find_checkpoint(folder, "best"))
    return attack.by(model)


def _hash_networks(config: RunConfig) -> dict[str, str]:
    """Return the sha256 of the weights of each such model that training depends on; evaluations may use others."""
    return {
        f"{path}.network": weights.compute_weights_hash(weights.find_checkpoint(Path(attack.network), "best"))
        for path, attack in build.list_attacks(config).items()
        if _names_network(attack) and not path.startswith("evaluation.")
    }
