"""Adversarial weight perturbation: each update takes its gradient at weights that raise the loss."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from advcore.errors import check, check_at_least, require
from advcore.runtime.states import has_arithmetic, narrow_expanded
from advcore.settings import setting, settings


@settings
class AWP:
    """Take each update's gradient at weights moved uphill, and apply it to the weights as they were.

    Every weight matrix or kernel w moves by gamma ||w|| g / ||g||, g the gradient of the same loss, in train mode;
    BatchNorm's statistics see the batch once. Cost: one more forward and backward pass for each of the objective's.

    Parameters
    ----------
    gamma : length of the move, relative to the weights, above 0, at most 1; the paper has 5e-3, 1e-2 for PGD.
    warm_up : first epochs that run without it, >= 0.

    Reference: Wu et al. 2020, eqs. 8 to 10. Differs: one step of the gradient itself, which their normalised step of
    SGD equals.
    """

    gamma: float = setting(default=0.005, unit="of the weights")
    warm_up: int = setting(default=0, unit="epochs")

    def __post_init__(self) -> None:
        require(
            check(0 < self.gamma <= 1, "gamma", "a number in (0, 1]", self.gamma),
            check_at_least("warm_up", self.warm_up, 0),
        )


@contextlib.contextmanager
def move_weights(model: nn.Module, gamma: float, compute_loss: Callable[[], Tensor]) -> Iterator[None]:
    """Move the weights of `model`, in train mode, uphill of a loss, and put them back bit for bit, also on error."""
    weights = [value for value in model.parameters() if value.requires_grad and value.ndim > 1]
    statistics = list_statistics(model)
    copies = [buffer.clone() for buffer in statistics]
    originals = [value.detach().clone() for value in weights]
    gradients = torch.autograd.grad(compute_loss(), weights, allow_unused=True)
    try:
        with torch.no_grad():
            for buffer, copy in zip(statistics, copies, strict=True):
                buffer.copy_(copy)
            for value, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    length = gradient.norm().clamp_min(torch.finfo(gradient.dtype).tiny)
                    size = value.masked_fill(value.isinf(), 0).norm()  # a mask may hold infinity
                    value.add_(gamma * size * (gradient / length))
        yield
    finally:
        with torch.no_grad():
            for value, original in zip(weights, originals, strict=True):
                value.copy_(original)


def list_statistics(model: nn.Module) -> list[Tensor]:
    """List the buffers that a pass in train mode may change, once each: those of modules in train mode."""
    buffers: dict[int, Tensor] = {}
    for module in model.modules():
        if module.training:
            buffers.update({id(buffer): buffer for buffer in module.buffers(recurse=False)})
    return [buffer for buffer in buffers.values() if has_arithmetic(buffer) and narrow_expanded(buffer) is buffer]
