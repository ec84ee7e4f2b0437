"""What a run file becomes before anything runs: data, model, trainer and plan, all checked."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advcore import distributed
from advcore.adversary import bound
from advcore.data.base import Data
from advcore.data.source import first_images
from advcore.errors import ConfigError, must
from advcore.reporting.record import RunRecord
from advcore.rows import Rows
from advcore.runner import build
from advcore.runner.config import from_dict
from advcore.runner.schema import RunConfig
from advcore.runner.weights import checkpoint, load_state, weights_hash
from advcore.speed import Speed
from advcore.training.loop import Listener
from advcore.training.trainer import Trainer, recorded_speed


@dataclass(frozen=True)
class Prepared:
    """A run that is checked and ready: everything that can fail for a wrong setting has been built."""

    config: RunConfig
    data: Data
    model: nn.Module
    trainer: Trainer
    plan: build.Plan
    scores: Rows | None = None
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reporter(Listener):
    """A listener that is also told the plan, and of the final evaluation."""

    on_plan: Callable[[build.Plan], None] = lambda plan: None
    on_final: Callable[[str], None] = lambda which: None


def prepare(config: RunConfig, *, scores: bool = True) -> Prepared:
    """Read and check the data, build model and trainer, write the plan; runs nothing. `scores`: also read the file of
    scores that the solver names; what does not select needs none.

    The trainer comes first: it needs no data, so a wrong setting is found before anything is read.
    """
    trainer = build.trainer(config)
    where = build.device(config)
    for tracker in config.tracking if distributed.first() else ():
        tracker.load()
    loaded = build.data(config, trainer, where)
    size, most = config.evaluation.examples, len(loaded.test)
    if size is not None and size > most:
        raise ConfigError(must("evaluation.examples", f"at most {most}, as many test images there are", size))
    wanted = config.selection and config.selection.cost
    if wanted is not None:
        config = build.budgeted(config, trainer, loaded)
        trainer = build.trainer(config)
    net = build.model(config, loaded, where)
    own = with_networks(config, loaded, where)
    config, trainer = (config, trainer) if own is config else (own, build.trainer(own))
    for path, attack in build.attacks(config).items():
        build.under(path, lambda attack=attack: bound(attack, net, lambda network: network))
    trainer.check(net, loaded.train)
    given, inputs = build.scores(trainer, loaded) if scores else (None, {})
    inputs |= networks(config)
    inputs |= {"selection.cost": wanted} if wanted is not None else {}
    return Prepared(config, loaded, net, trainer, build.plan(config, trainer, loaded, net, wanted), given, inputs)


def speed_of(prepared: Prepared, state: dict[str, Any] | None = None) -> Speed:
    """Settle how passes run on this device with this model; in a run that goes on from `state`, as that run began."""
    speed = prepared.trainer.speed
    if state is not None:
        speed = recorded_speed(speed, state, prepared.model)
    return speed.suited(prepared.model, first_images(prepared.model, prepared.data.train), distributed.size())


def with_networks(config: RunConfig, loaded: Data, where: torch.device) -> RunConfig:
    """The config with each attack that names a run's folder measuring its distance in that run's `best` model."""

    def ready(attack: Any) -> Any:
        if getattr(attack, "network", None) is None:
            return attack
        folder = Path(attack.network)
        net = build.model(from_dict(RunRecord.load(folder / "record.json").config), loaded, where)
        load_state(net, checkpoint(folder, "best"))
        return attack.by(net)

    if not _networks(config):
        return config
    return replace(
        config,
        attack=ready(config.attack),
        selection=config.selection and replace(config.selection, attack=ready(config.selection.attack)),
        evaluation=replace(config.evaluation, attacks=[ready(attack) for attack in config.evaluation.attacks]),
    )


def _networks(config: RunConfig) -> dict[str, Path]:
    """Folders of other runs in whose models attacks measure distances, by the path of their setting."""
    found = {path: getattr(attack, "network", None) for path, attack in build.attacks(config).items()}
    return {f"{path}.network": Path(folder) for path, folder in found.items() if folder}


def networks(config: RunConfig) -> dict[str, str]:
    """The sha256 of each file that such a model is read from: training depends on it. Evaluations may use another."""
    found = {path: folder for path, folder in _networks(config).items() if not path.startswith("evaluation.")}
    return {path: weights_hash(checkpoint(folder, "best")) for path, folder in found.items()}
