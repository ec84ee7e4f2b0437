"""Settings of the optimisers, which build those of torch, and which steps they can do as one kernel."""

import inspect
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from advcore.errors import MOST, SettingProblem, check, check_positive, check_within, require
from advcore.runtime.precision import Speed
from advcore.settings import setting, settings
from advcore.training.lr import LRSchedule, bind_factor
from advcore.training.timm import TimmOptimizer


@settings
class SGD:
    """Settings of torch.optim.SGD.

    Parameters
    ----------
    lr : the largest learning rate of the schedule, above 0.
    momentum : in [0, 1).
    weight_decay : L2 penalty on all parameters, in [0, 10].
    nesterov : take the gradient at the point to which the momentum leads (Nesterov's momentum).
    """

    lr: float = setting(unit="unit-free")
    momentum: float = setting(default=0.9, unit="unit-free")
    weight_decay: float = setting(default=5e-4, unit="unit-free")
    nesterov: bool = False

    def __post_init__(self) -> None:
        require(
            check_positive("lr", self.lr),
            check_within("momentum", self.momentum, 0, 0.9999),
            check_within("weight_decay", self.weight_decay, 0, 10),
        )

    def build(self, model: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
        """Build the optimiser of the model's parameters; a `fused` one does its step as one kernel."""
        optimizer = torch.optim.SGD(
            model.parameters(),
            self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            fused=fused or None,
        )
        if fused and self.momentum:
            # torch's fused step fails where a weight's first gradient comes after another's; the first step is the same
            for parameter in model.parameters():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


@settings
class Adam:
    """Settings of torch.optim.Adam.

    Parameters
    ----------
    lr : the largest learning rate of the schedule, above 0.
    weight_decay : L2 penalty on all parameters, in [0, 10].
    """

    lr: float = setting(default=1e-3, unit="unit-free")
    weight_decay: float = setting(default=0.0, unit="unit-free")

    def __post_init__(self) -> None:
        require(check_positive("lr", self.lr), check_within("weight_decay", self.weight_decay, 0, 10))

    def build(self, model: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
        """Build the optimiser of the model's parameters; a `fused` one does its step as one kernel."""
        return torch.optim.Adam(model.parameters(), self.lr, weight_decay=self.weight_decay, fused=fused or None)


@settings
class AdamW:
    """Settings of torch.optim.AdamW, the usual optimiser of transformers and ConvNeXts.

    Parameters
    ----------
    lr : the largest learning rate of the schedule, above 0.
    weight_decay : share of the weights that is taken off at a step, times the learning rate; in [0, 10].
    beta1, beta2 : decay of the moving averages of the gradient and of its square, in [0, 1).

    Reference: Loshchilov and Hutter 2019, algorithm 2.
    """

    lr: float = setting(default=1e-3, unit="unit-free")
    weight_decay: float = setting(default=0.05, unit="unit-free")
    beta1: float = setting(default=0.9, unit="unit-free")
    beta2: float = setting(default=0.999, unit="unit-free")

    def __post_init__(self) -> None:
        require(
            check_positive("lr", self.lr),
            check_within("weight_decay", self.weight_decay, 0, 10),
            check_within("beta1", self.beta1, 0, 0.999999),
            check_within("beta2", self.beta2, 0, 0.999999),
        )

    def build(self, model: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
        """Build the optimiser of the model's parameters; a `fused` one does its step as one kernel."""
        return torch.optim.AdamW(
            model.parameters(),
            self.lr,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            fused=fused or None,
        )


OptimizerSettings = SGD | Adam | AdamW | TimmOptimizer


def can_fuse(settings: OptimizerSettings) -> bool:
    """Return whether an optimiser can do its step as one kernel: whether its `build` takes `fused`."""
    return "fused" in inspect.signature(settings.build).parameters


def suit_speed(speed: Speed, settings: OptimizerSettings) -> Speed:
    """Return the speed without fused steps, and what needs them, for an optimiser that has none."""
    if can_fuse(settings):
        return speed
    return replace(speed, fused=False, deferred=False)


def find_fused_problem(speed: Speed, settings: OptimizerSettings) -> SettingProblem | None:
    """Return the problem with fused steps that are asked for where the optimiser has none."""
    is_asked = speed.fused or speed.deferred
    rule = f"null or false with {type(settings).__name__}, which has no fused steps"
    return check(not is_asked or can_fuse(settings), "speed.fused, speed.deferred", rule, True)


def build_optimizer(settings: OptimizerSettings, model: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
    """Build the optimiser of the model's parameters, with fused steps where it has them and they are wanted."""
    build: Callable[..., torch.optim.Optimizer] = settings.build
    if can_fuse(settings):
        return build(model, fused=fused)
    return build(model)


def try_update(settings: OptimizerSettings, schedule: LRSchedule, model: nn.Module) -> None:
    """Raise ConfigError where an optimiser of the model, or the schedule of its rate, cannot be built, or is none."""
    parameters = {id(parameter) for parameter in model.parameters()}
    if parameters:  # a model without any is refused elsewhere
        optimizer = build_optimizer(settings, model)
        groups = getattr(optimizer, "param_groups", [])
        is_right = groups and {id(parameter) for group in groups for parameter in group["params"]} <= parameters
        rule = "one whose build(model) returns an optimiser of torch, of the model's parameters"
        require(check(is_right, "training.optimizer", rule, type(optimizer).__name__))
    start = bind_factor(schedule, settings.lr)(0.0, 0)
    require(check_within("training.lr_schedule: its factor at the start", start, 0, MOST))
