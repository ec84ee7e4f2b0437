"""Prepare a run before anything runs: data, model, trainer and plan, all checked."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from advcore import distributed
from advcore.adversary import bound
from advcore.attacks.base import Attack
from advcore.data.base import Data
from advcore.data.source import first_images
from advcore.errors import ConfigError, must
from advcore.models.base import multiply_adds
from advcore.reporting.record import RunRecord
from advcore.rows import Rows
from advcore.runner import build
from advcore.runner.config import from_dict
from advcore.runner.plan import Plan, make_plan
from advcore.runner.schema import RunConfig
from advcore.runner.weights import checkpoint, load_state, weights_hash
from advcore.speed import Speed
from advcore.threads import set_by_user, suited_threads
from advcore.training.loop import Listener
from advcore.training.trainer import Trainer, recorded_speed


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


def ignore(event: object) -> None:
    """Do nothing: the default of a callback."""


@dataclass(frozen=True, kw_only=True)
class Reporter(Listener):
    """A listener that also receives the plan, and the name of the weights ("last", "best") that are being evaluated."""

    on_plan: Callable[[Plan], None] = ignore
    on_final: Callable[[str], None] = ignore


def prepare(config: RunConfig, *, scores: bool = True) -> Prepared:
    """Read and check the data, build model and trainer, and make the plan; train nothing.

    scores : also read the file of scores that the solver names, which only a selection needs.

    The trainer comes first: it needs no data, so that a wrong setting is reported before anything is read.
    """
    trainer = build.trainer(config)
    device = build.choose_device(config)
    if distributed.first():
        for tracker in config.tracking:
            tracker.load()
    loaded = build.load_data(config, trainer, device)
    _check_test_size(config, loaded)
    wanted = config.selection and config.selection.cost
    if wanted is not None:
        config = build.set_budget(config, trainer, loaded)
        trainer = build.trainer(config)
    net = build.build_model(config, loaded, device)
    if _network_folders(config):
        config = _load_networks(config, loaded, device)
        trainer = build.trainer(config)
    for path, attack in build.list_attacks(config).items():
        with build.under(path):
            bind_uncounted(attack, net)
    trainer.check(net, loaded.train)
    rows, inputs = build.load_scores(trainer, loaded) if scores else (None, {})
    inputs |= hash_networks(config)
    if wanted is not None:
        inputs["selection.cost"] = wanted
    plan = make_plan(config, trainer, loaded, net, wanted)
    return Prepared(config, loaded, net, trainer, plan=plan, scores=rows, inputs=inputs)


def _check_test_size(config: RunConfig, loaded: Data) -> None:
    size = config.evaluation.examples
    most = len(loaded.test)
    if size is not None and size > most:
        raise ConfigError(must("evaluation.examples", f"at most {most}, as many test images there are", size))


def bind_uncounted(attack: Attack | None, model: nn.Module) -> Attack | None:
    """Bind an attack to a model without counting its passes."""
    return bound(attack, model, _leave_uncounted)


def _leave_uncounted(network: nn.Module) -> nn.Module:
    return network


def speed_of(prepared: Prepared, state: dict[str, object] | None = None) -> Speed:
    """Return how passes run on this device with this model; in a run that continues from `state`, as it began."""
    speed = prepared.trainer.speed
    if state is not None:
        speed = recorded_speed(speed, state, prepared.model)
    return speed.suited(prepared.model, first_images(prepared.model, prepared.data.train), distributed.size())


def use_suited_threads(prepared: Prepared, recorded: int | None = None) -> str | None:
    """Let torch use one thread where the network is so small that more would be slower; return why, if it does.

    Nothing is changed on a GPU, in one of several processes, and where the user has set OMP_NUM_THREADS. `recorded` is
    the number of threads of a run that continues.
    """
    if prepared.data.train.device.type != "cpu" or distributed.size() > 1 or set_by_user():
        return None
    work = multiply_adds(prepared.model, first_images(prepared.model, prepared.data.train))
    threads, reason = suited_threads(work * prepared.config.training.batch_size, torch.get_num_threads(), recorded)
    torch.set_num_threads(threads)
    return reason


def _load_networks(config: RunConfig, loaded: Data, device: torch.device) -> RunConfig:
    """Return the config in which each attack that names a run's folder measures distances in that run's best model."""
    load = partial(_load_network, loaded=loaded, device=device)
    attack = load(config.attack)
    selection = config.selection and replace(config.selection, attack=load(config.selection.attack))
    attacks = [load(attack) for attack in config.evaluation.attacks]
    evaluation = replace(config.evaluation, attacks=attacks)
    return replace(config, attack=attack, selection=selection, evaluation=evaluation)


def _load_network(attack: Attack | None, loaded: Data, device: torch.device) -> Attack | None:
    if getattr(attack, "network", None) is None:
        return attack
    folder = Path(attack.network)
    net = build.build_model(from_dict(RunRecord.load(folder / "record.json").config), loaded, device)
    load_state(net, checkpoint(folder, "best"))
    return attack.by(net)


def _network_folders(config: RunConfig) -> dict[str, Path]:
    """Return the folders of other runs in whose models attacks measure distances, by the path of their setting."""
    networks = {path: getattr(attack, "network", None) for path, attack in build.list_attacks(config).items()}
    return {f"{path}.network": Path(folder) for path, folder in networks.items() if folder}


def hash_networks(config: RunConfig) -> dict[str, str]:
    """Return the sha256 of the weights of each such model that training depends on; evaluations may use others."""
    folders = _network_folders(config).items()
    training = {path: folder for path, folder in folders if not path.startswith("evaluation.")}
    return {path: weights_hash(checkpoint(folder, "best")) for path, folder in training.items()}
