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
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        model.train(training)
        for parameter, _, _ in flags:
            parameter.requires_grad_(False)
            parameter.grad = None
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag, gradient in flags:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
        for module, name, buffer, content in buffers:
            buffer.data.copy_(content)
            setattr(module, name, buffer)
