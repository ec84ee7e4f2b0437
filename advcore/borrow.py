"""Lend a model out in a given mode, and give it back exactly as it was."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from advcore.errors import ConfigError, must


def device_of(model: nn.Module) -> torch.device:
    """Where the model is. Raises ConfigError for a model without parameters: it has no linear head either."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise ConfigError(must("model", "a network that ends in a torch.nn.Linear", type(model).__name__))
    return parameter.device


@contextlib.contextmanager
def borrow(model: nn.Module, *, training: bool = False) -> Iterator[nn.Module]:
    """`model` in train or eval mode with its parameters not asking for gradients, restored also on error.

    Restored are: each module's mode, each parameter's `requires_grad` and gradient (which is put aside: a model that
    asks for gradients while it predicts adds to none), and each buffer's content (a BatchNorm in train mode moves its
    statistics). Cost: one copy of the buffers.
    """
    modules = list(model.modules())
    modes = [(module, module.training) for module in modules]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [(module, name, buffer) for module in modules for name, buffer in module.named_buffers(recurse=False)]
    held = [buffer.data for _, _, buffer in buffers]
    contents = [torch.empty_like(buffer) for buffer in held]
    _copy(held, contents)
    try:
        model.train(training)
        for parameter, _, _ in flags:
            parameter.requires_grad_(False)
            parameter.grad = None
        yield model
    finally:
        for module, mode in modes:
            if module.training != mode:  # setting an attribute of a module is slow
                module.training = mode
        for parameter, flag, gradient in flags:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
        _copy(contents, held)
        for module, name, buffer in buffers:
            if module._buffers.get(name) is not buffer:
                setattr(module, name, buffer)


def _copy(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    """All at once: one by one they would be a hundred small requests to a GPU, at every attack."""
    if sources:
        torch._foreach_copy_(targets, sources)
