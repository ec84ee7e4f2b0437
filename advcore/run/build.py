"""From a config to its objects: device, data, model, selector and trainer, each checked against the others."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import torch
from torch import nn

from advcore import distributed
from advcore.attacks.base import Attack
from advcore.config.schema import RunConfig
from advcore.data.base import Data
from advcore.data.contract import cut_into_chunks
from advcore.data.pool import Pooled, find_candidates
from advcore.errors import ConfigError, UserError, as_problem, check, must, require
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.shared import find_limit_problems
from advcore.minibatch import RULES
from advcore.models.base import Normalize, add_normalization, measure_channels
from advcore.models.head import find_head
from advcore.register.plugins import format_trace
from advcore.rng import Stream, preserve_random_state
from advcore.rows import Rows
from advcore.runtime.borrow import borrow
from advcore.runtime.device import count_gpus
from advcore.runtime.precision import run_model
from advcore.selection.coreset import AdversarialCoreset, SelectionSettings
from advcore.selection.rows_from import check_attack_is_used
from advcore.selection.schedule import Schedule
from advcore.selection.scores import Scores
from advcore.solvers.base import find_scores_file
from advcore.training import attack_steps, loop_settings, minibatch, mixing, penalties
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
        gpu_of_process = f"cuda:{distributed.gpu_of_process()}"
        if name == "cuda" or name == "auto" and count_gpus():
            name = gpu_of_process
        elif name.startswith("cuda:") and name != gpu_of_process:
            raise ConfigError(must("device", "auto, cuda or cpu with several processes", name))
    if name == "auto":
        return torch.device("cuda" if count_gpus() else "cpu")
    if name.startswith("cuda") and not count_gpus():
        raise ConfigError(must("device", "one that this machine has (cpu)", name, "torch finds no CUDA device"))
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count_gpus():
        raise ConfigError(must("device", f"cuda:0 to cuda:{count_gpus() - 1}", name))
    return device


def build_selector(config: RunConfig) -> AdversarialCoreset | None:
    """Return what selects the coresets of a run; None for a run on all data."""
    selection = config.selection
    if selection is None:
        return None
    with prefix_problems("selection."):
        require(check_attack_is_used(selection, selection.attack))
        return AdversarialCoreset(
            objective=config.objective,
            solver=selection.solver,
            attack=selection.attack or config.attack,
            full_attack=build_reference_attack(config),
            head=config.model.head,
            attack_mode=config.training.attack_mode,
            block_size=config.training.batch_size,
            normalise=config.training.normalise,
            **_copy_shared_settings(SelectionSettings, selection),
        )


def _copy_shared_settings(kind: type, settings: object) -> dict:
    return {field.name: getattr(settings, field.name) for field in fields(kind)}


def build_reference_attack(config: RunConfig) -> Attack | None:
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
            **{name: getattr(selection, name) for name in ("budget", "warm_start", "period", "schedule", "when")},
        )


def build_trainer(config: RunConfig) -> Trainer:
    """Return the trainer with its selector. Settings that share a name have the same value in both.

    Raises ConfigError for settings that exclude each other.
    """
    training = config.training
    schedule = build_schedule(config)
    selector = build_selector(config)
    solver = getattr(selector, "solver", None)
    epochs = len(schedule.plan())
    rule = config.minibatch
    require(minibatch.find_rule_problem(rule, config.objective, config.attack, epochs, training))
    with prefix_problems("training."):
        require(
            attack_steps.find_steps_problem(training.attack_steps, config.attack),
            loop_settings.find_memory_problem(training.memory, config.attack),
            mixing.find_mixing_problem(training.cutmix, config.objective, config.attack, solver),
            penalties.find_regularizer_problem(training, config.objective, config.attack),
            training.find_length_problem(epochs),
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
            **_copy_shared_settings(LoopSettings, training),
        )


def list_attacks(config: RunConfig) -> dict[str, Attack | AutoAttack]:
    """Return all attacks of a run, by the path of their setting."""
    attacks: dict[str, Attack | AutoAttack | None] = {
        "attack": config.attack,
        "selection.attack": getattr(config.selection, "attack", None),
        **{f"evaluation.attacks.{i}": attack for i, attack in enumerate(config.evaluation.attacks)},
    }
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
        allowed = "one that needs no validation accuracy if there are no validation data"
        require(must("minibatch", allowed, find_name(RULES, rule), "set data.validation"))
    examples = config.evaluation.examples
    if examples is not None and examples > len(data.test):
        require(must("evaluation.examples", f"at most {len(data.test)}, the number of test images", examples))
    problems = find_limit_problems(config.evaluation.attacks, examples or len(data.test))
    require(*(problem.inside("evaluation.") for problem in problems if problem))
    return data


def _check_attacks(config: RunConfig, data: Data) -> None:
    problems = {}
    for path, attack in list_attacks(config).items():
        problems[path] = attack.problem(data.train.shape)
        if not problems[path] and hasattr(attack, "find_classes_problem"):
            problems[path] = attack.find_classes_problem(data.num_classes)
    require(*(as_problem(problem).inside(f"{path}.") for path, problem in problems.items() if problem))


def _check_selector(selector: AdversarialCoreset | None, data: Data) -> None:
    n = len(find_candidates(data.train))
    size = n if selector is None else selector.count_chosen(n)
    require(check(size >= 2, "selection.budget", f"at least two examples of {n}", size, "keep more data"))
    if selector is None:
        return
    if selector.partition == "per_batch" and selector.budget < 1 and n <= selector.block_size + 1:
        rule = f"at most {n - 2}, for two batches of {n} training examples"
        require(must("training.batch_size", rule, selector.block_size))
    if selector.needs_validation and data.validation is None:
        require(must("selection.target", "'train' without validation data", "validation", "set data.validation"))


def build_model(config: RunConfig, data: Data, device: torch.device) -> nn.Module:
    """Return the model with random weights and its normalisation inside.

    Raises ConfigError for a network that does not take the data's images, or has no linear head (`find_model_head`).
    """
    shape = data.train.shape
    with preserve_random_state(Stream(seed=config.seed, purpose="init")), _take_images(config, shape):
        model = config.model.build(data.num_classes, shape)
    if config.model.normalize == "data":
        model = _normalize(model, config, data)
    model = model.to(device)
    find_model_head(model, config, data)
    return model


def find_model_head(model: nn.Module, config: RunConfig, data: Data) -> nn.Module:
    """Return the model's linear head, which is found by its output for two images. Raises ConfigError."""
    _, x, _ = next(data.train.batches([torch.arange(min(2, len(data.train)))]))
    with borrow(model), _take_images(config, data.train.shape), torch.no_grad():
        run_model(model, x)
        with prefix_problems("model."):
            return find_head(model, x, config.model.head)


def _normalize(model: nn.Module, config: RunConfig, data: Data) -> nn.Module:
    """Put the normalisation before a network: with the numbers of the settings, or those of the training images."""
    channels = data.train.shape[0]
    mean, std = config.model.choose_normalization(channels)
    if mean is None or std is None:
        chunks = cut_into_chunks(torch.arange(len(data.train)), 1024)
        return nn.Sequential(Normalize(*measure_channels(data.train.batches(chunks))), model)
    with prefix_problems("model."):
        rule = f"one number, or one for each of {channels} channels"
        require(check(len(mean) in (1, channels), "mean", rule, mean))
        require(check(len(std) in (1, channels), "std", rule, std))
        return add_normalization(model, list(mean) * (channels // len(mean)), list(std) * (channels // len(std)))


@contextlib.contextmanager
def _take_images(config: RunConfig, shape: tuple[int, int, int]) -> Iterator[None]:
    """Raise ConfigError for whatever a network raises inside the block at images that it cannot take."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if format_trace(error):
            raise  # a plug-in's owner reads its own traceback
        name = f"{type(config.model).__name__} on images {shape}"
        reason = f"{type(error).__name__}: {''.join(str(error).splitlines()[:1])}{config.model.suggest_size(shape)}"
        raise ConfigError(must("model.name", "a network that takes the data's images", name, reason)) from None


def load_scores(trainer: Trainer, data: Data) -> tuple[Rows | None, dict[str, object]]:
    """Return the scores of the training examples, or of a pool, from the solver's file, and facts for the record.

    None and no facts where it reads no file.
    """
    reads = trainer.solver_reads
    path = find_scores_file(trainer.selector.solver) if trainer.selector else None
    if reads is None or path is None:
        return None, {}
    with prefix_problems("selection.solver.scores: "):
        scores = Scores.load(Path(path))
        if isinstance(data.train, Pooled):
            rows = scores.rows_of(path, reads, data.train.pool)
        else:
            rows = scores.rows(path, reads, data.part, len(data.whole), compute_fingerprint(data))
    facts = {name: getattr(scores, name) for name in ("score", "epochs", "model", "objective", "seed", "sha256")}
    facts |= {name: cost for name in ("passes", "flops") if (cost := getattr(scores, name))}  # older files do not say
    return rows, {"selection.solver.scores": {"path": path, **facts}}


def compute_fingerprint(data: Data) -> str:
    """Return the fingerprint of the training set before validation examples are taken out of it."""
    digest = digest_labels(data.whole.tolist().__getitem__, len(data.whole))
    if not data.changed:
        return digest
    return hashlib.sha256(f"{digest}, {data.changed}".encode()).hexdigest()[:16]


def count_held_out(data: Data) -> int:
    """Return how many validation examples there are."""
    return len(data.validation or ())
