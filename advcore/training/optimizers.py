"""torch's optimisers as settings."""

import torch
from torch import nn

from advcore.errors import positive, require, within
from advcore.types import settings


@settings
class SGD:
    """torch.optim.SGD.

    Parameters
    ----------
    lr : the largest learning rate of the schedule, above 0.
    momentum : in [0, 1).
    weight_decay : l2 penalty on all parameters, in [0, 10].
    nesterov : step on the gradient where the momentum leads.
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False

    def __post_init__(self):
        require(
            positive("lr", self.lr),
            within("momentum", self.momentum, 0, 0.9999),
            within("weight_decay", self.weight_decay, 0, 10),
        )

    def build(self, model: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
        """The optimiser of the model's parameters; `fused`: its step is one kernel."""
        made = torch.optim.SGD(
            model.parameters(),
            self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            fused=fused or None,
        )
        for parameter in model.parameters() if fused and self.momentum else ():
            # torch's fused step fails where a weight's first gradient comes after another's; the first step is the same
            made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return made


@settings
class Adam:
    """torch.optim.Adam.

    Parameters
    ----------
    lr : the largest learning rate of the schedule, above 0.
    weight_decay : l2 penalty on all parameters, in [0, 10].
    """

    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self):
        require(positive("lr", self.lr), within("weight_decay", self.weight_decay, 0, 10))

    def build(self, model: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
        """The optimiser of the model's parameters; `fused`: its step is one kernel."""
        return torch.optim.Adam(model.parameters(), self.lr, weight_decay=self.weight_decay, fused=fused or None)
