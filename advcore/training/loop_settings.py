"""Settings of the training loop that do not depend on what is trained, and what they ask of a run."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import nn

from advcore import distributed
from advcore.attacks.base import Attack
from advcore.attacks.memory import Memory
from advcore.data.contract import SAMPLE, Source, count_chunks, read_first_images
from advcore.errors import (
    CheckpointError,
    ConfigError,
    SettingProblem,
    check,
    check_at_least,
    check_one_of,
    check_positive,
    check_within,
    describe_exception,
    must,
    require,
    unless,
)
from advcore.minibatch import RULES
from advcore.minibatch.base import UpdateSubset
from advcore.minibatch.whole_batch import WholeBatch
from advcore.regularizers.base import Regularizer
from advcore.runtime.borrow import find_device
from advcore.runtime.precision import Speed
from advcore.selection.coreset import ATTACK_MODES
from advcore.selection.result import NORMALISE
from advcore.selection.schedule import MOST_EPOCHS
from advcore.settings import setting, settings
from advcore.shares import floor_share
from advcore.training.average import SWA
from advcore.training.mixing import CutMix
from advcore.training.progress import Snapshot
from advcore.training.trainable import split_names
from advcore.training.weight_attack import AWP
from advcore.types import find_name

if TYPE_CHECKING:
    from advcore.training.trainer import Trainer


@settings
class LoopSettings:
    """How the loop trains, whatever its objective, attack and schedule.

    Parameters
    ----------
    batch_size : examples per step, over all processes together; at least 2.
    normalise : how a coreset's weights are scaled: "coreset", to mean 1 over the coreset; "none", as solved, w K / N;
        "batch", to mean 1 in each batch, as published; "equal", replaced by 1 each.
    attack_mode : mode of the model while it is attacked: "eval", or "train" as in some published codes.
    eps_ramp : epochs on all data over whose steps the training attack's ball grows to its size, >= 0.
    eps_ramp_share : instead, a share of the run's own steps, in [0, 1], however short it is or small its coresets.
    clip_norm : largest gradient norm, above 0; None does not clip.
    clip_value : largest absolute value of a gradient's entry, above 0, as PAT clips; None does not clip.
    ema : decay of a moving average of the weights, in [0, 1), which is then what is evaluated and saved; None for none.
    swa : an equal average of the weights of the last epochs, in place of `ema`; null for none.
    probe_examples : validation examples, stratified, at least 1, attacked after each epoch to choose `best`.
    memory : how perturbations are remembered, for an attack with `start: remembered`.
    speed : precision and layout of the model's passes, and the like.
    trainable : which parameters train: "all", "head", or names of parameters or modules, separated by commas, with *
        for anything: "layer4, fc.*". The others are frozen, and modules that hold nothing else are in eval mode.
    head_epochs : first epochs that run in which the head alone trains, >= 0: its fit to trained features comes before
        these move.
    awp : adversarial weight perturbation, which works without a minibatch rule; null for none.
    cutmix : mixes the images of a batch, and their labels, without a minibatch rule; null for none.
    regularizer : adds a penalty to the loss of each example, without a minibatch rule; null for none.
    """

    batch_size: int = setting(default=128, unit="examples")
    normalise: str = "coreset"
    attack_mode: str = "eval"
    eps_ramp: float = setting(default=0, unit="epochs")
    eps_ramp_share: float = setting(default=0, unit="share")
    clip_norm: float | None = setting(default=None, unit="gradient norm")
    clip_value: float | None = setting(default=None, unit="gradient entry")
    ema: float | None = setting(default=None, unit="unit-free")
    swa: SWA | None = None
    probe_examples: int = setting(default=1000, unit="images")
    memory: Memory = Memory()
    speed: Speed = Speed()
    trainable: str = "all"
    head_epochs: int = setting(default=0, unit="epochs")
    awp: AWP | None = None
    cutmix: CutMix | None = None
    regularizer: Regularizer | None = None

    def __post_init__(self) -> None:
        require(
            check_at_least("batch_size", self.batch_size, 2, "BatchNorm cannot train on one example"),
            check_one_of("normalise", self.normalise, NORMALISE),
            check_one_of("attack_mode", self.attack_mode, ATTACK_MODES),
            check_within("eps_ramp", self.eps_ramp, 0, 10_000),
            check_within("eps_ramp_share", self.eps_ramp_share, 0, 1),
            check(
                not (self.eps_ramp and self.eps_ramp_share),
                "eps_ramp_share",
                "0 with eps_ramp",
                self.eps_ramp_share,
                "one of them says how long the ramp is",
            ),
            unless(self.clip_norm is None, check_positive("clip_norm", self.clip_norm)),
            unless(self.clip_value is None, check_positive("clip_value", self.clip_value)),
            unless(self.ema is None, check_within("ema", self.ema, 0, 0.999999)),
            check(self.swa is None or self.ema is None, "swa", "null with ema", self.swa, "choose one average"),
            check_at_least("probe_examples", self.probe_examples, 1),
            check(split_names(self.trainable), "trainable", "all, head, or names separated by commas", self.trainable),
            check_at_least("head_epochs", self.head_epochs, 0, most=MOST_EPOCHS),
            *self._check_more(),
        )

    def _check_more(self) -> list[SettingProblem | None]:
        """Return what may be wrong with a subclass's own settings."""
        return []

    def is_averaged(self, epoch: int, length: int) -> bool:
        """Return whether an epoch, counted from 0 of `length` that run, goes into the equal average."""
        return self.swa is not None and epoch >= floor_share(self.swa.start, length)

    def find_length_problem(self, epochs: int) -> SettingProblem | None:
        """Return the first setting that lets something wait for longer than the `epochs` that run; None for none."""
        lengths = {"head_epochs": self.head_epochs, "awp.warm_up": getattr(self.awp, "warm_up", 0)}
        for path, length in lengths.items():
            if length > epochs:
                return must(path, f"at most the {epochs} epochs that run", length)
        return None

    def awp_at(self, epoch: int) -> AWP | None:
        """Return the weight perturbation of an epoch, counted from 0 in epochs that run; None for none."""
        if self.awp is None or epoch < self.awp.warm_up:
            return None
        return self.awp


def count_steps(trainer: "Trainer", n: int) -> list[int]:
    """Return the number of steps of each epoch that the trainer plans for n training examples."""
    sizes = [trainer.count_examples(epoch.action, n) for epoch in trainer.schedule.plan()]
    return [sum(count_chunks(size, trainer.batch_size).values()) for size in sizes]


def count_ramp_steps(trainer: "Trainer", n: int) -> float:
    """Return over how many steps the training attack's ball grows, of a run on n training examples."""
    if trainer.eps_ramp_share:
        return trainer.eps_ramp_share * sum(count_steps(trainer, n))
    return trainer.eps_ramp * math.ceil(n / trainer.batch_size)


def refuse_processes(trainer: "Trainer") -> None:
    """Raise ConfigError for settings that several processes cannot work with together."""
    count = distributed.size()
    if count == 1:
        return
    alone = f"with {count} processes"
    rule = find_name(RULES, trainer.minibatch)
    works_on_whole = isinstance(trainer.minibatch, (UpdateSubset, WholeBatch))
    whole = "it works on whole batches; use one process"
    late = "gradients are averaged for what trains from the beginning; use one process"
    moved = "each process would move the weights its own way; use one process"
    mixed = "each process would mix its own part of a batch; use one process"
    least = distributed.LEAST * count
    share = f"{count} processes take {distributed.LEAST} or more each"
    require(
        check(not works_on_whole, "minibatch", f"a rule of what to attack {alone}", rule, whole),
        check(
            not trainer.speed.deferred,
            "speed.deferred",
            f"null or false {alone}",
            True,
            "one might step while another does not",
        ),
        check(not trainer.head_epochs, "training.head_epochs", f"0 {alone}", trainer.head_epochs, late),
        check(trainer.awp is None, "training.awp", f"null {alone}", trainer.awp, moved),
        check(trainer.cutmix is None, "training.cutmix", f"null {alone}", trainer.cutmix, mixed),
        check_at_least("training.batch_size", trainer.batch_size, least, way_out=share),
    )


def resolve_speed(speed: Speed, model: nn.Module, train: Source, snapshot: Snapshot | None = None) -> Speed:
    """Decide how passes of the model run on the data's device, for as many processes as there are.

    snapshot : of the run that is continued, from which settings that are left out are taken. Raises CheckpointError for
        anything but a snapshot.
    """
    if snapshot is not None:
        try:
            speed = speed.complete_from(snapshot.get("speed"), find_device(model))
        except (LookupError, TypeError, AttributeError, ConfigError) as error:
            raise CheckpointError(must("resume", "a state of this run", describe_exception(error))) from error
    return speed.resolve_for(model, read_first_images(model, train), distributed.size())


def agree_on_speed(speed: Speed, model: nn.Module, train: Source, snapshot: Snapshot | None = None) -> Speed:
    """Let the first process decide how passes run (`resolve_speed`), for all."""
    return Speed(**distributed.run_on_first(lambda: asdict(resolve_speed(speed, model, train, snapshot))))


def has_remembered_start(attack: Attack | None) -> bool:
    """Return whether an attack starts from the perturbation at which it ended in the epoch before."""
    return getattr(attack, "remembers", False)


def find_memory_problem(memory: Memory, attack: Attack | None) -> SettingProblem | None:
    """Return why these settings of a memory are not used; None if they are, or are the defaults."""
    if memory == Memory() or has_remembered_start(attack):
        return None
    return must("memory", "left out where nothing is remembered", asdict(memory), "set attack.start to remembered")


def refuse_untrainable(model: nn.Module) -> None:
    """Raise ConfigError for a model that has nothing to train, or NaN in it, as the weights of a diverged run have."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        way_out = "let some require gradients: parameter.requires_grad_(True)"
        raise ConfigError(must("model", "one with parameters to train", type(model).__name__, way_out))
    for name, parameter in trained.items():
        if bool(torch.isnan(parameter).any()):
            raise ConfigError(must("model", "one with numbers to begin from", f"NaN in {name}", "load other weights"))


def refuse_other_images(train: Source) -> None:
    """Raise ConfigError if the data give an index another image when it is read again: none could be remembered."""
    changed = train.list_changed()
    if not changed:
        return
    raise ConfigError(
        "attack.start: remembered needs data that give an index the same image each time, got "
        f"{len(changed)} of {min(SAMPLE, len(train))} that change between reads (example {changed[0]}); "
        "pass `augment` to the trainer instead of augmenting inside the data set, or use start: uniform"
    )
