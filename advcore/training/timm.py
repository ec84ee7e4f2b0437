"""Optimisers and schedules of timm, by name: layer-wise rate decay too."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import ClassVar

import torch
from torch import nn

from advcore.errors import (
    ConfigError,
    check,
    check_at_least,
    check_one_of,
    check_positive,
    check_within,
    must,
    quote_library,
    require,
    require_package,
    suggest_nearest,
)
from advcore.runtime.borrow import find_device
from advcore.selection.schedule import MOST_EPOCHS
from advcore.settings import setting, settings

_TAKEN = ("model_or_params", "opt", "lr", "weight_decay", "layer_decay", "param_group_fn")
SCHEDULES = ("constant", "cosine", "multistep", "poly", "rsqrt", "step", "tanh", "wsd")
_SET_HERE = ("optimizer", "sched", "step_on_epochs", "updates_per_epoch")


@settings
class TimmOptimizer:
    """`timm:NAME` in a run file: an optimiser that timm knows, such as lamb or lion, or adamw with `layer_decay`.

    Needs the extra hf. Its steps are not fused.

    Parameters
    ----------
    algorithm : timm's name, such as "lamb".
    lr : the largest learning rate of the schedule, above 0.
    weight_decay : as the optimiser means it, in [0, 10]; timm leaves out biases, what is a vector, and what the network
        lists itself.
    layer_decay : rate of each layer, relative to that of the layer after it, in (0, 1]; 1 is one rate for all. Below 1
        it needs a network of timm, or one with timm's `group_matcher`.
    options : other arguments of timm.optim.create_optimizer_v2, such as {betas: [0.9, 0.98]}.
    """

    algorithm: str
    lr: float = setting(unit="unit-free")
    weight_decay: float = setting(default=0.0, unit="unit-free")
    layer_decay: float = setting(default=1.0, unit="unit-free")
    options: dict[str, object] = field(default_factory=dict)
    after_colon: ClassVar[str] = "algorithm"

    def __post_init__(self) -> None:
        taken = [name for name in self.options if name in _TAKEN]
        require(
            check_positive("lr", self.lr),
            check_within("weight_decay", self.weight_decay, 0, 10),
            check(0 < self.layer_decay <= 1, "layer_decay", "a number in (0, 1]", self.layer_decay),
            check(not taken, "options", "of arguments without a setting", ", ".join(taken)),
        )

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimiser of all of the model's parameters, including those that are frozen at first.

        Raises ConfigError for a name or options that timm does not know, and for `layer_decay` where it knows no
        layers.
        """
        with require_package("timm", f"training.optimizer.name: timm:{self.algorithm}", "hf"):
            from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
        names = [name for name in map(str, list_optimizers()) if not get_optimizer_info(name).second_order]
        if self.algorithm not in names:
            rule = "timm:NAME with an optimiser that timm knows, of first derivatives"
            raise ConfigError(
                must("training.optimizer.name", rule, self.algorithm, suggest_nearest(self.algorithm, names))
            )
        network = find_network(model)
        create: Callable[..., torch.optim.Optimizer] = create_optimizer_v2
        arguments = dict(self.options)
        if self.layer_decay < 1:
            arguments["layer_decay"] = self.layer_decay
            is_known = hasattr(network, "group_matcher")
            rule = "1 for a network without timm's `group_matcher`, whose layers are not known"
            require(check(is_known, "training.optimizer.layer_decay", rule, self.layer_decay, "take timm's network"))
        try:
            _take_step(create(_make_scratch(network), self.algorithm, self.lr, self.weight_decay, **self.options))
            with _require_all_gradients(network):
                return create(network, self.algorithm, self.lr, self.weight_decay, **arguments)
        except Exception as error:  # an optimiser may raise anything for its arguments
            raise _refuse_options("optimizer", self.algorithm, self.options, error) from error


@settings
class TimmSchedule:
    """`timm:NAME` in a run file: a schedule of timm, at each step, with timm's own arguments.

    Needs the extra hf.

    Parameters
    ----------
    algorithm : "constant", "cosine", "multistep", "poly", "rsqrt", "step", "tanh" or "wsd".
    epochs : length of the run in the epochs of `options`, at least 1: as a rule `training.epochs`. A run on coresets,
        or one that is shortened, takes the whole schedule in its fewer steps.
    options : other arguments of timm.scheduler.create_scheduler_v2, such as {warmup_epochs: 5, min_lr: 1.0e-5}. With
        cycles, a cooldown or a prefix, `num_epochs` is among them: what makes all of it as long as `epochs`.
    """

    algorithm: str
    epochs: int = setting(unit="epochs")
    options: dict[str, object] = field(default_factory=dict)
    after_colon: ClassVar[str] = "algorithm"
    example: ClassVar[Mapping[str, object]] = {"algorithm": "cosine"}

    def __post_init__(self) -> None:
        taken = [name for name in self.options if name in _SET_HERE or name.startswith("noise")]
        require(
            check_one_of("name", self.algorithm, SCHEDULES),
            check_at_least("epochs", self.epochs, 1, most=MOST_EPOCHS),
            check(not taken, "options", "without what is set here, and noise", ", ".join(taken)),
        )

    def bind(self, lr: float) -> Callable[[float, int], float]:
        """Return the factor of the rate `lr` as a function of progress and index, as the other schedules have it.

        Raises ConfigError for options that timm does not take, or that make a schedule of another length.
        """
        with require_package("timm", f"training.lr_schedule.name: timm:{self.algorithm}", "hf"):
            from timm.scheduler import create_scheduler_v2
        create: Callable[..., tuple] = create_scheduler_v2
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr)
        try:
            scheduler, length = create(optimizer, self.algorithm, **{"num_epochs": self.epochs, **self.options})
        except Exception as error:  # a schedule may raise anything for its arguments
            raise _refuse_options("lr_schedule", self.algorithm, self.options, error) from error
        rule = f"of a schedule that takes {self.epochs} epochs in all"
        path = "training.lr_schedule.options"
        require(
            check(scheduler, "training.lr_schedule.name", "a schedule that the installed timm has", self.algorithm),
            check(length == self.epochs, path, rule, f"{length} epochs", "set num_epochs among them"),
        )

        def compute_factor(progress: float, lr_index: int) -> float:
            scheduler.step(progress * self.epochs)
            return optimizer.param_groups[0]["lr"] / lr

        return compute_factor


def _make_scratch(network: nn.Module) -> list[nn.Parameter]:
    """Return parameters to try an optimiser on, for some of its arguments are first read when it takes a step."""
    device = find_device(network)
    return [nn.Parameter(torch.ones(shape, device=device)) for shape in ((2, 2), (2,))]


def _take_step(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def _refuse_options(part: str, algorithm: str, options: dict[str, object], cause: Exception) -> ConfigError:
    rule = f"what timm can build {algorithm} with"
    return ConfigError(must(f"training.{part}.options", rule, options, quote_library(cause)))


def find_network(model: nn.Module) -> nn.Module:
    """Return the network inside of normalisation and other wrappers: what has timm's methods, or several parts."""
    while not (hasattr(model, "group_matcher") or hasattr(model, "no_weight_decay")):
        parts = [child for child in model.children() if any(True for _ in child.parameters())]
        if len(parts) != 1 or any(True for _ in model.parameters(recurse=False)):
            break
        model = parts[0]
    return model


@contextlib.contextmanager
def _require_all_gradients(network: nn.Module) -> Iterator[None]:
    """Let all parameters require gradients for the block: timm leaves out what is frozen, which may train later."""
    flags = [(value, value.requires_grad) for value in network.parameters() if value.is_floating_point()]
    try:
        for value, _ in flags:
            value.requires_grad_(True)
        yield
    finally:
        for value, flag in flags:
            value.requires_grad_(flag)
