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
from advcore.run import build
from advcore.run.explain import explain_cost, explain_epochs
from advcore.run.weights import find_checkpoint, load_state, weights_hash
from advcore.selection.memory import estimate_for, settle
from advcore.training.loop import Listener
from advcore.training.plan import Reference, count_planned_parts
from advcore.training.trainer import Trainer

_NEAR = 0.95  # of a wanted cost; the plan mentions a cost that is below it

Kind = TypeVar("Kind")


class MeasuringAttack(Protocol):
    """An attack that measures distances in the best model of the run whose folder is `network`."""

    network: str

    def by(self, network: nn.Module) -> Attack:
        """Return the attack with its distance measured in a frozen copy of `network`."""


@dataclass(frozen=True)
class Plan:
    """What a run will do, what it will cost, and what it will hold in memory.

    text : the plan in one line. relative_cost : its units over those of the reference. memory : sizes of the largest
    things held, by name. notes : explanations of what may surprise in the plan, by what they are about.
    """

    text: str
    relative_cost: float
    reference: Reference
    memory: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A run that is checked: everything that can fail for a wrong setting has been built.

    scores : rows for a solver that reads them from a file. inputs : files that the run read, and the wanted cost, by
    setting.
    """

    config: RunConfig
    data: Data
    model: nn.Module
    trainer: Trainer
    plan: Plan
    scores: Rows | None = None
    inputs: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reporter(Listener):
    """A listener that also receives the plan, and the name of the weights ("last", "best") that are being evaluated."""

    on_plan: Callable[[Plan], None] = lambda plan: None
    on_final: Callable[[str], None] = lambda which: None


def prepare(config: RunConfig, *, scores: bool = True) -> Prepared:
    """Read and check the data, build model and trainer, and make the plan; train nothing.

    scores : also read the file of scores that the solver names, which only a selection needs.

    The trainer comes first: it needs no data, so that a wrong setting is reported before anything is read.
    """
    trainer = build.build_trainer(config)
    device = build.choose_device(config)
    if distributed.is_first():
        for tracker in config.tracking:
            tracker.load()
    data = build.load_data(config, trainer, device)
    wanted = None
    if config.selection is not None:
        wanted = config.selection.cost
    if wanted is not None:
        config = build.set_budget(config, trainer, data)
        trainer = build.build_trainer(config)
    model = build.build_model(config, data, device)
    if _network_folders(config):
        config = _load_networks(config, data, device)
        trainer = build.build_trainer(config)
    for path, attack in build.list_attacks(config).items():
        if isinstance(attack, AutoAttack):
            continue  # it needs nothing of the model before it runs
        with build.prefix_problems(f"{path}."):
            bind_attack(attack, model, CostLedger().count_passes)  # of which nothing is kept
    trainer.check(model, data.train)
    rows, inputs = build.load_scores(trainer, data) if scores else (None, {})
    inputs |= hash_networks(config)
    if wanted is not None:
        inputs["selection.cost"] = wanted
    plan = make_plan(config, trainer, data, model, wanted)
    return Prepared(config, data, model, trainer, plan=plan, scores=rows, inputs=inputs)


def make_plan(config: RunConfig, trainer: Trainer, data: Data, model: nn.Module, wanted: float | None = None) -> Plan:
    """Return what the run will do, its cost relative to the reference, and what it will hold in memory.

    wanted : the cost that the budget was computed for; None where the budget was set.
    """
    n = len(data.train)
    compared = build.find_reference(config, n)
    planned = count_planned_parts(trainer, n, build.count_held_out(data))
    cost = planned.total / compared.units
    method = ", ".join(part.describe() for part in (trainer.schedule, config.minibatch) if part)
    text = f"{method}: {cost:.2f} of full training"
    if planned.total > compared.units:
        text += "; full training is cheaper"
    if wanted is not None and cost < _NEAR * wanted:
        text += f", of {wanted:g} wanted: the next larger budget takes a whole epoch more, and too much"
    notes = {"epochs": explain_epochs(trainer.schedule), "cost": explain_cost(trainer, planned, compared, n)}
    return Plan(
        text=text,
        relative_cost=cost,
        reference=compared,
        memory=estimate_memory(trainer, data, model),
        notes={subject: note for subject, note in notes.items() if note},
    )


def estimate_memory(trainer: Trainer, data: Data, model: nn.Module) -> dict[str, str]:
    """Return what a run holds, in MB: images, parameters with gradients and momentum, and a selection at its peak.

    Raises ConfigError if a selection does not fit into `selection.memory_limit` even with its rows in a file, or if
    remembered perturbations do not fit.
    """
    sizes = {
        "images": data.train.nbytes,
        "model and optimiser": 3 * sum(p.numel() * p.element_size() for p in model.parameters()),
    }
    if trainer.remembers:
        sizes["remembered perturbations"] = trainer.estimate_memory(len(data.train), data.train.shape)
        with build.prefix_problems("training."):
            trainer.memory.settle(sizes["remembered perturbations"], data.train.device)
    selector = trainer.selector
    estimate = None
    if selector is not None:
        estimate = estimate_for(selector, model, data.train, build.count_held_out(data))
    if selector is None or estimate is None:
        return {name: _format_megabytes(size) for name, size in sizes.items()}
    with build.prefix_problems("selection."):
        estimate, event = settle(estimate, selector.memory_limit, data.train.device)
    sizes["largest problem"] = estimate.problem + estimate.matrix + estimate.solver
    sizes["selection at its height"] = estimate.peak
    rows = _format_megabytes(estimate.rows) + (" in a temporary file" if event else "")
    return {"gradient rows": rows} | {name: _format_megabytes(size) for name, size in sizes.items()}


def _format_megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _load_networks(config: RunConfig, data: Data, device: torch.device) -> RunConfig:
    """Return the config in which each attack that names a run's folder measures distances in that run's best model."""

    def load(attack: Kind) -> Kind | Attack:
        return _load_network(attack, data, device)

    return replace(
        config,
        attack=load(config.attack),
        selection=config.selection and replace(config.selection, attack=load(config.selection.attack)),
        evaluation=replace(config.evaluation, attacks=[load(attack) for attack in config.evaluation.attacks]),
    )


def _names_network(attack: object) -> TypeGuard[MeasuringAttack]:
    return getattr(attack, "network", None) is not None


def _load_network(attack: Kind, data: Data, device: torch.device) -> Kind | Attack:
    if not _names_network(attack):
        return attack
    folder = Path(attack.network)
    model = build.build_model(from_dict(RunRecord.load(folder / "record.json").config), data, device)
    load_state(model, find_checkpoint(folder, "best"))
    return attack.by(model)


def _network_folders(config: RunConfig) -> dict[str, Path]:
    """Return the folders of other runs in whose models attacks measure distances, by the path of their setting."""
    attacks = build.list_attacks(config).items()
    return {
        f"{path}.network": Path(attack.network) for path, attack in attacks if _names_network(attack) and attack.network
    }


def hash_networks(config: RunConfig) -> dict[str, str]:
    """Return the sha256 of the weights of each such model that training depends on; evaluations may use others."""
    return {
        path: weights_hash(find_checkpoint(folder, "best"))
        for path, folder in _network_folders(config).items()
        if not path.startswith("evaluation.")
    }
