"""Config to objects: data, model, trainer, selector; every cross-check before the first step."""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from advcore import distributed
from advcore.borrow import borrow
from advcore.data.base import Data
from advcore.data.source import chunked
from advcore.device import gpus
from advcore.errors import ConfigError, UserError, must, require
from advcore.minibatch import RULES
from advcore.models.base import Normalize, channel_statistics, find_head
from advcore.rng import Stream, preserved
from advcore.rows import Rows
from advcore.runner.explain import explain_cost, explain_epochs
from advcore.runner.schema import RunConfig, SelectionConfig
from advcore.selection.coreset import AdversarialCoreset, SelectionSettings
from advcore.selection.memory import estimate_for, settle
from advcore.selection.schedule import Schedule
from advcore.selection.scores import Scores
from advcore.solvers.base import scores_file
from advcore.solvers.uniform import Random
from advcore.training.attack_steps import steps_problem
from advcore.training.budget import Offer, budget_at_cost, offers
from advcore.training.minibatch import rule_problem
from advcore.training.plan import Reference, planned_parts, reference
from advcore.training.trainer import LoopSettings, Trainer, memory_problem
from advcore.types import labels_digest, name_in

Built = TypeVar("Built")
_NEAR = 0.95  # of a wanted cost: what is further from it is told


@dataclass(frozen=True)
class Plan:
    """What a run will do and take: text, units against the reference, and the largest things held. notes : what may
    surprise in it, explained, by what it is about."""

    text: str
    relative_cost: float
    reference: Reference
    memory: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)


def under(section: str, build: Callable[[], Built]) -> Built:
    """`build()`, its problems named as settings of `section`."""
    try:
        return build()
    except UserError as error:
        raise type(error)(*(f"{section}.{problem}" for problem in error.problems)) from None


def device(config: RunConfig) -> torch.device:
    """The device that the config asks for; nothing else is taken in its place. Of several processes on a machine, each
    has its own."""
    if distributed.launched() and (config.device == "cuda" or config.device == "auto" and gpus()):
        return device(dataclasses.replace(config, device=f"cuda:{distributed.own_gpu()}"))
    if (
        distributed.launched()
        and config.device.startswith("cuda:")
        and config.device != f"cuda:{distributed.own_gpu()}"
    ):
        raise ConfigError(must("device", "auto, cuda or cpu with several processes", config.device))
    if config.device == "auto":
        return torch.device("cuda" if gpus() else "cpu")
    if config.device.startswith("cuda") and not gpus():
        raise ConfigError(
            must("device", "one that this machine has (cpu)", config.device, "torch finds no CUDA device")
        )
    found = torch.device(config.device)
    if found.type == "cuda" and (found.index or 0) >= gpus():
        raise ConfigError(must("device", f"cuda:0 to cuda:{gpus() - 1}", config.device))
    return found


def selector(config: RunConfig) -> AdversarialCoreset | None:
    chosen = config.selection
    if chosen is None:
        return None
    return under(
        "selection",
        lambda: AdversarialCoreset(
            objective=config.objective,
            solver=chosen.solver,
            attack=chosen.attack or config.attack,
            full_attack=full_attack(config),
            head=config.model.head,
            attack_mode=config.training.attack_mode,
            block_size=config.training.batch_size,
            normalise=config.training.normalise,
            **{f.name: getattr(chosen, f.name) for f in dataclasses.fields(SelectionSettings)},
        ),
    )


def full_attack(config: RunConfig) -> Any:
    """The reference run's attack; its steps as long as so many should be, where the training attack has others."""
    if config.attack is None:
        return None
    found, steps = config.attack.reference(config.cost.reference_steps), getattr(config.attack, "steps", None)
    return found.changed(step_size=None) if hasattr(found, "step_size") and steps != found.steps else found


def schedule(config: RunConfig) -> Schedule:
    chosen = config.selection
    if chosen is None:
        return Schedule(epochs=config.training.epochs)
    shared = {name: getattr(chosen, name) for name in ("budget", "warm_start", "period", "schedule")}
    return under("selection", lambda: Schedule(epochs=config.training.epochs, **shared))


def trainer(config: RunConfig) -> Trainer:
    """The trainer with its selector; settings that share a name are the same thing in both."""
    shared = {f.name: getattr(config.training, f.name) for f in dataclasses.fields(LoopSettings)}
    when, chooser = schedule(config), selector(config)
    require(rule_problem(config.minibatch, config.objective, len(when.plan()), config.training.normalise))
    problems = [steps_problem(config.training.attack_steps, config.attack)]
    problems += [memory_problem(config.training.memory, config.attack)]
    under("training", lambda: require(*problems))
    return under(
        "selection",
        lambda: Trainer(
            objective=config.objective,
            attack=config.attack,
            minibatch=config.minibatch,
            head=config.model.head,
            schedule=when,
            selector=chooser,
            optimizer=config.training.optimizer,
            lr_schedule=config.training.lr_schedule,
            attack_steps=config.training.attack_steps,
            probe_epochs=config.selection.probe_epochs if config.selection else 0,
            **shared,
        ),
    )


def attacks(config: RunConfig) -> dict[str, Any]:
    """All attacks of a run, by the path of their setting."""
    found = {"attack": config.attack, "selection.attack": config.selection and config.selection.attack}
    found |= {f"evaluation.attacks.{i}": attack for i, attack in enumerate(config.evaluation.attacks)}
    return {path: attack for path, attack in found.items() if attack is not None}


def data(config: RunConfig, built: Trainer, where: torch.device) -> Data:
    """The data, and whether the attacks' settings make sense for their shape."""
    loaded = config.data.load(where)
    found = {path: attack.problem(loaded.train.shape) for path, attack in attacks(config).items()}
    found |= {
        path: attack.classes_problem(loaded.num_classes)
        for path, attack in attacks(config).items()
        if hasattr(attack, "classes_problem") and not found[path]
    }
    require(*(f"{path}.{problem}" for path, problem in found.items() if problem))
    n, chooser = len(loaded.train), built.selector
    kept = n if chooser is None else chooser.size(n)
    require(must("selection.budget", f"at least two examples of {n}", kept, "keep more data") if kept < 2 else None)
    if chooser is not None and chooser.partition == "per_batch" and chooser.budget < 1 and n <= chooser.block_size + 1:
        raise ConfigError(must("training.batch_size", f"less than the {n} training examples", chooser.block_size))
    if chooser is not None and chooser.needs_validation and loaded.validation is None:
        raise ConfigError(
            must("selection.target", "'train' without validation data", "validation", "set data.validation")
        )
    if config.minibatch is not None and config.minibatch.needs_validation and loaded.validation is None:
        what = "one that follows no validation accuracy without validation data"
        raise ConfigError(must("minibatch", what, name_in(RULES, config.minibatch), "set data.validation"))
    return loaded


def model(config: RunConfig, loaded: Data, where: torch.device) -> nn.Module:
    """The seeded model with its normalisation inside, tried on two images; its head is a linear layer."""
    shape = loaded.train.shape
    with preserved(Stream(seed=config.seed, purpose="init")):
        net = _tried(config, shape, lambda: config.model.body(loaded.num_classes, shape))
    if config.model.normalize == "data":
        everything = chunked(torch.arange(len(loaded.train)), 1024)
        net = nn.Sequential(Normalize(*channel_statistics(loaded.train.batches(everything))), net)
    net = net.to(where)
    _, x, _ = next(loaded.train.batches([torch.arange(min(2, len(loaded.train)))]))
    with borrow(net):
        _tried(config, shape, lambda: under("model", lambda: find_head(net, x, config.model.head)))
    return net


def _tried(config: RunConfig, shape: tuple[int, int, int], build: Callable[[], Built]) -> Built:
    """`build()`; whatever a network raises at images that it cannot take becomes one line."""
    try:
        return build()
    except UserError:
        raise
    except Exception as error:
        name = f"{type(config.model).__name__} on images {shape}"
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise ConfigError(must("model.name", "a network that takes the data's images", name, said)) from None


def budgeted(config: RunConfig, built: Trainer, loaded: Data) -> RunConfig:
    """The config with the budget that `selection.cost` pays for in place of it."""
    chosen = config.selection
    n, wanted = len(loaded.train), chosen.cost
    found = under(
        "selection", lambda: budget_at_cost(built, n, held_out(loaded), wanted, compared(config, loaded).units)
    )
    return dataclasses.replace(config, selection=dataclasses.replace(chosen, budget=found, cost=None))


def offered(config: RunConfig, loaded: Data, cost: float) -> list[Offer]:
    """Runs near a wanted cost (`training.budget.offers`), from these settings; a random subset where none is chosen."""
    own = config if config.selection else dataclasses.replace(config, selection=SelectionConfig(solver=Random()))
    return offers(trainer(own), len(loaded.train), held_out(loaded), cost, compared(config, loaded).units)


def compared(config: RunConfig, loaded: Data) -> Reference:
    """The run that costs are relative to."""
    epochs = config.cost.reference_epochs or config.training.epochs
    return reference(config.objective, config.attack, len(loaded.train), epochs, config.cost.reference_steps)


def plan(config: RunConfig, built: Trainer, loaded: Data, net: nn.Module, wanted: float | None = None) -> Plan:
    """What the run will do, its cost relative to the reference, and what it will hold in memory. `wanted`: the cost
    that the budget was found for."""
    against, n = compared(config, loaded), len(loaded.train)
    planned = planned_parts(built, n, held_out(loaded))
    cost = planned.total / against.units
    notes = {"epochs": explain_epochs(built.schedule), "cost": explain_cost(built, planned, against, n)}
    rule = f", {config.minibatch.describe()}" if config.minibatch else ""
    dear = "; full training is cheaper" if planned.total > against.units else ""
    short = wanted is not None and cost < _NEAR * wanted
    dear += f", of {wanted:g} wanted: the next larger budget takes a whole epoch more, and too much" if short else ""
    return Plan(
        text=f"{built.schedule.describe()}{rule}: {cost:.2f} of full training{dear}",
        relative_cost=cost,
        reference=against,
        memory=memory(built, loaded, net),
        notes={about: note for about, note in notes.items() if note},
    )


def scores(built: Trainer, loaded: Data) -> tuple[Rows | None, dict[str, Any]]:
    """The scores that the solver reads from a file, for the training examples; and what the record tells of them."""
    if not built.given:
        return None, {}
    path, solver = scores_file(built.selector.solver), built.selector.solver
    try:
        found = Scores.load(Path(path))
        rows = found.rows(path, solver.reads, loaded.part, len(loaded.whole), whole_fingerprint(loaded))
    except UserError as error:
        raise type(error)(f"selection.solver.scores: {error}") from None
    told = {name: getattr(found, name) for name in ("score", "epochs", "model", "objective", "seed", "sha256")}
    return rows, {"selection.solver.scores": {"path": path, **told}}


def whole_fingerprint(loaded: Data) -> str:
    """Of the whole training set, before validation is taken out."""
    labels = labels_digest(lambda i: loaded.whole[i], len(loaded.whole))
    return hashlib.sha256(f"{labels}, {loaded.changed}".encode()).hexdigest()[:16] if loaded.changed else labels


def held_out(loaded: Data) -> int:
    """How many validation examples there are."""
    return 0 if loaded.validation is None else len(loaded.validation)


def memory(built: Trainer, loaded: Data, net: nn.Module) -> dict[str, str]:
    """What is held: images, parameters with gradients and momentum, and a selection at its height.

    Raises ConfigError if a selection cannot fit into `selection.memory_limit`, also with its rows in a file.
    """
    held = {
        "images": loaded.train.nbytes,
        "model and optimiser": 3 * sum(p.numel() * p.element_size() for p in net.parameters()),
    }
    chooser, where = built.selector, loaded.train.device
    if built.remembers:
        held["remembered perturbations"] = built.memory_bytes(len(loaded.train), loaded.train.shape)
        under("training", lambda: built.memory.settle(held["remembered perturbations"], where))
    found = chooser and estimate_for(chooser, net, loaded.train, held_out(loaded))
    if found is None:
        return {name: _megabytes(size) for name, size in held.items()}
    found, event = under("selection", lambda: settle(found, chooser.memory_limit, where))
    held |= {"largest problem": found.problem + found.matrix + found.solver, "selection at its height": found.peak}
    rows = {"gradient rows": _megabytes(found.rows) + (" in a temporary file" if event else "")}
    return rows | {name: _megabytes(size) for name, size in held.items()}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
