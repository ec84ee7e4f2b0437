"""From a config to its objects: device, data, model, selector and trainer, each checked against the others."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn

from advcore import distributed
from advcore.attacks.base import Attack
from advcore.config.schema import RunConfig, SelectionConfig
from advcore.data.base import Data
from advcore.data.contract import cut_into_chunks
from advcore.errors import ConfigError, UserError, as_problem, must, require
from advcore.evaluation.autoattack import AutoAttack
from advcore.minibatch import RULES
from advcore.models.base import Normalize, find_head, measure_channels
from advcore.rng import Stream, preserve_random_state
from advcore.rows import Rows
from advcore.runtime.borrow import borrow
from advcore.runtime.device import count_gpus
from advcore.selection.coreset import AdversarialCoreset, SelectionSettings
from advcore.selection.schedule import Schedule
from advcore.selection.scores import Scores
from advcore.solvers.base import find_scores_file
from advcore.solvers.uniform import Random
from advcore.training.attack_steps import find_steps_problem
from advcore.training.budget import Offer, find_budget_at_cost, list_offers
from advcore.training.loop_settings import find_memory_problem
from advcore.training.minibatch import find_rule_problem
from advcore.training.plan import Reference, plan_reference
from advcore.training.trainer import LoopSettings, Trainer
from advcore.types import digest_labels, find_name


@contextlib.contextmanager
def prefix_problems(prefix: str) -> Iterator[None]:
    """Put a prefix before each problem that is raised inside the block, such as "selection." to name its section."""
    try:
        yield
    except UserError as error:
        raise type(error)(*(problem.inside(prefix) for problem in error.problems)) from None


# ---- objects that need no data ----


def choose_device(config: RunConfig) -> torch.device:
    """Return the device that the config asks for; no other device is taken in its place.

    Of several processes on a machine, each has its own GPU. Raises ConfigError for a device that is not there.
    """
    name = config.device
    if distributed.is_launched():
        name = _device_of_process(name)
    if name == "auto":
        return torch.device("cuda" if count_gpus() else "cpu")
    if name.startswith("cuda") and not count_gpus():
        raise ConfigError(must("device", "one that this machine has (cpu)", name, "torch finds no CUDA device"))
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count_gpus():
        raise ConfigError(must("device", f"cuda:0 to cuda:{count_gpus() - 1}", name))
    return device


def _device_of_process(name: str) -> str:
    device = f"cuda:{distributed.gpu_of_process()}"
    if name == "cuda" or name == "auto" and count_gpus():
        return device
    if name.startswith("cuda:") and name != device:
        raise ConfigError(must("device", "auto, cuda or cpu with several processes", name))
    return name


def build_selector(config: RunConfig) -> AdversarialCoreset | None:
    """Return what selects the coresets of a run; None for a run on all data."""
    selection = config.selection
    if selection is None:
        return None
    with prefix_problems("selection."):
        return AdversarialCoreset(
            objective=config.objective,
            solver=selection.solver,
            attack=selection.attack or config.attack,
            full_attack=reference_attack(config),
            head=config.model.head,
            attack_mode=config.training.attack_mode,
            block_size=config.training.batch_size,
            normalise=config.training.normalise,
            **_shared_settings(SelectionSettings, selection),
        )


def _shared_settings(kind: type, settings: object) -> dict:
    return {field.name: getattr(settings, field.name) for field in fields(kind)}


def reference_attack(config: RunConfig) -> Attack | None:
    """Return the reference run's attack; None for a run without an attack.

    Where the training attack has another number of steps, the step size is the default for the reference's number.
    """
    if config.attack is None:
        return None
    attack = config.attack.reference(config.cost.reference_steps)
    if hasattr(attack, "step_size") and getattr(config.attack, "steps", None) != getattr(attack, "steps", None):
        return attack.with_settings(step_size=None)
    return attack


def build_schedule(config: RunConfig) -> Schedule:
    """Return the schedule of training and selection; without a selection, all epochs are on all data."""
    selection = config.selection
    if selection is None:
        return Schedule(epochs=config.training.epochs)
    with prefix_problems("selection."):
        return Schedule(
            epochs=config.training.epochs,
            budget=selection.budget,
            warm_start=selection.warm_start,
            period=selection.period,
            schedule=selection.schedule,
        )


def build_trainer(config: RunConfig) -> Trainer:
    """Return the trainer with its selector. Settings that share a name have the same value in both.

    Raises ConfigError for settings that exclude each other.
    """
    training = config.training
    schedule, selector = build_schedule(config), build_selector(config)
    require(find_rule_problem(config.minibatch, config.objective, len(schedule.plan()), training.normalise))
    with prefix_problems("training."):
        require(
            find_steps_problem(training.attack_steps, config.attack),
            find_memory_problem(training.memory, config.attack),
        )
    with prefix_problems("selection."):
        return Trainer(
            objective=config.objective,
            attack=config.attack,
            minibatch=config.minibatch,
            head=config.model.head,
            schedule=schedule,
            selector=selector,
            optimizer=training.optimizer,
            lr_schedule=training.lr_schedule,
            attack_steps=training.attack_steps,
            probe_epochs=getattr(config.selection, "probe_epochs", 0),
            **_shared_settings(LoopSettings, training),
        )


def list_attacks(config: RunConfig) -> dict[str, Attack | AutoAttack]:
    """Return all attacks of a run, by the path of their setting."""
    attacks: dict[str, Attack | AutoAttack | None] = {"attack": config.attack}
    if config.selection is not None:
        attacks["selection.attack"] = config.selection.attack
    attacks |= {f"evaluation.attacks.{i}": attack for i, attack in enumerate(config.evaluation.attacks)}
    return {path: attack for path, attack in attacks.items() if attack is not None}


# ---- data and model ----


def load_data(config: RunConfig, trainer: Trainer, device: torch.device) -> Data:
    """Load the data, and check attacks, selection, minibatch rule and evaluation against their shape and their number.

    Raises ConfigError for settings that make no sense for these data, DataError for data that cannot be read.
    """
    data = config.data.load(device)
    _check_attacks(config, data)
    _check_selector(trainer.selector, data)
    rule = config.minibatch
    if rule is not None and rule.needs_validation and data.validation is None:
        allowed = "one that follows no validation accuracy without validation data"
        raise ConfigError(must("minibatch", allowed, find_name(RULES, rule), "set data.validation"))
    examples = config.evaluation.examples
    if examples is not None and examples > len(data.test):
        raise ConfigError(
            must("evaluation.examples", f"at most {len(data.test)}, as many test images there are", examples)
        )
    return data


def _check_attacks(config: RunConfig, data: Data) -> None:
    problems = {}
    for path, attack in list_attacks(config).items():
        problems[path] = attack.problem(data.train.shape)
        if not problems[path] and hasattr(attack, "classes_problem"):
            problems[path] = attack.classes_problem(data.num_classes)
    require(*(as_problem(problem).inside(f"{path}.") for path, problem in problems.items() if problem))


def _check_selector(selector: AdversarialCoreset | None, data: Data) -> None:
    n = len(data.train)
    size = n if selector is None else selector.size(n)
    if size < 2:
        raise ConfigError(must("selection.budget", f"at least two examples of {n}", size, "keep more data"))
    if selector is None:
        return
    if selector.partition == "per_batch" and selector.budget < 1 and n <= selector.block_size + 1:
        raise ConfigError(must("training.batch_size", f"less than the {n} training examples", selector.block_size))
    if selector.needs_validation and data.validation is None:
        raise ConfigError(
            must("selection.target", "'train' without validation data", "validation", "set data.validation")
        )


def build_model(config: RunConfig, data: Data, device: torch.device) -> nn.Module:
    """Return the model with the run's initial weights and its normalisation inside.

    It is tried on two images. Raises ConfigError for a network that does not take them, or has no linear head.
    """
    shape = data.train.shape
    with preserve_random_state(Stream(seed=config.seed, purpose="init")), _take_images(config, shape):
        model = config.model.build(data.num_classes, shape)
    if config.model.normalize == "data":
        chunks = cut_into_chunks(torch.arange(len(data.train)), 1024)
        model = nn.Sequential(Normalize(*measure_channels(data.train.batches(chunks))), model)
    model = model.to(device)
    _, x, _ = next(data.train.batches([torch.arange(min(2, len(data.train)))]))
    with borrow(model), _take_images(config, shape), prefix_problems("model."):
        find_head(model, x, config.model.head)
    return model


@contextlib.contextmanager
def _take_images(config: RunConfig, shape: tuple[int, int, int]) -> Iterator[None]:
    """Raise ConfigError for whatever a network raises inside the block at images that it cannot take."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        name = f"{type(config.model).__name__} on images {shape}"
        first_line, *_ = str(error).splitlines() or [""]
        raise ConfigError(
            must("model.name", "a network that takes the data's images", name, f"{type(error).__name__}: {first_line}")
        ) from None


# ---- cost ----


def set_budget(config: RunConfig, trainer: Trainer, data: Data) -> RunConfig:
    """Return the config with the budget that `selection.cost` pays for, in place of that cost."""
    n = len(data.train)
    selection = config.selection
    assert selection is not None and selection.cost is not None, "there is a cost to replace"
    with prefix_problems("selection."):
        units = find_reference(config, n).units
        budget = find_budget_at_cost(trainer, n, count_held_out(data), selection.cost, reference_units=units)
    return replace(config, selection=replace(selection, budget=budget, cost=None))


def find_offers(config: RunConfig, data: Data, cost: float) -> list[Offer]:
    """Return runs near a wanted cost (`training.budget.list_offers`) that start from these settings.

    Where the config selects nothing, they train on random subsets.
    """
    if config.selection is None:
        config = replace(config, selection=SelectionConfig(solver=Random()))
    n = len(data.train)
    return list_offers(
        build_trainer(config), n, count_held_out(data), cost, reference_units=find_reference(config, n).units
    )


def find_reference(config: RunConfig, n: int) -> Reference:
    """Return the run that costs are relative to; `n` is the number of training examples."""
    return plan_reference(
        config.objective,
        config.attack,
        n,
        epochs=config.cost.reference_epochs or config.training.epochs,
        steps=config.cost.reference_steps,
    )


def load_scores(trainer: Trainer, data: Data) -> tuple[Rows | None, dict[str, object]]:
    """Return the scores of the training examples, read from the file that the solver names, and facts for the record.

    Returns None and no facts for a solver that reads no file.
    """
    if trainer.selector is None or not trainer.reads_score_file:
        return None, {}
    solver = trainer.selector.solver
    path = find_scores_file(solver)
    assert path is not None and solver.reads is not None, "scores are given"
    with prefix_problems("selection.solver.scores: "):
        scores = Scores.load(Path(path))
        rows = scores.rows(path, solver.reads, data.part, len(data.whole), compute_fingerprint(data))
    facts = {name: getattr(scores, name) for name in ("score", "epochs", "model", "objective", "seed", "sha256")}
    return rows, {"selection.solver.scores": {"path": path, **facts}}


def compute_fingerprint(data: Data) -> str:
    """Return the fingerprint of the training set before validation examples are taken out of it."""

    def label_at(i: int) -> int:
        return int(data.whole[i])

    labels = digest_labels(label_at, len(data.whole))
    if not data.changed:
        return labels
    return hashlib.sha256(f"{labels}, {data.changed}".encode()).hexdigest()[:16]


def count_held_out(data: Data) -> int:
    """Return how many validation examples there are."""
    return len(data.validation or ())
