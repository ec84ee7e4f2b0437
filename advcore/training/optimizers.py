"""Settings of the optimisers, which build those of torch."""

import torch
from torch import nn

from advcore.errors import check_positive, check_within, require
from advcore.settings import setting, settings


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


OptimizerSettings = SGD | Adam | AdamW
