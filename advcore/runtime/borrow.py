"""Lend a model out in a given mode, and give it back exactly as it was."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import nn

from advcore.errors import ConfigError, must

Function = TypeVar("Function", bound=Callable)


def record_gradients(function: Function) -> Function:
    """Decorate a function so that autograd records inside, whatever mode the caller is in, which is back afterwards.

    Under `torch.no_grad()` or `torch.inference_mode()` no gradient would reach an image: attacks would move nothing,
    and every model would look robust.
    """
    return torch.inference_mode(mode=False)(torch.enable_grad()(function))


def find_device(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer; the CPU for a model that has neither.

    Raises ConfigError for a model whose parameters hold no numbers yet, and for one whose parameters were made under
    `torch.inference_mode()`, through which no gradient leads.
    """
    tensors = list(itertools.chain(model.parameters(), model.buffers()))
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors):
        way_out = "call it once, on an image (1, C, H, W)"
        raise ConfigError(must("model", "one whose lazy layers know their sizes", type(model).__name__, way_out))
    if any(tensor.is_meta for tensor in tensors):
        way_out = "build it on a device, or use to_empty() and load weights"
        raise ConfigError(must("model", "on a device that holds numbers", "the device meta", way_out))
    _refuse_inference(model, model.parameters())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _refuse_inference(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    if any(parameter.is_inference() for parameter in parameters):
        built = f"{type(model).__name__} that was built inside"
        raise ConfigError(must("model", "built outside of torch.inference_mode()", built))


@contextlib.contextmanager
def borrow(model: nn.Module, *, training: bool = False) -> Iterator[nn.Module]:
    """Put `model` in train or eval mode, with no parameter requiring gradients, and restore it, also on error.

    Restored are each module's mode, each parameter's `requires_grad` and gradient, and each buffer's content, because
    BatchNorm in train mode updates its statistics. Gradients are set aside, so that a model that computes gradients
    while it predicts adds to none. Raises ConfigError as `find_device`. Cost: one copy of the buffers.
    """
    modules = list(model.modules())
    modes = [(module, module.training) for module in modules]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    _refuse_inference(model, (parameter for parameter, _, _ in flags))
    buffers = _list_buffers(modules)
    contents = [buffer.data for _, _, buffer in buffers]
    copies = [torch.empty_like(content) for content in contents]
    _copy_all(contents, copies)
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
        _copy_all(copies, contents)
        for module, name, buffer in buffers:
            if getattr(module, name, None) is not buffer:
                setattr(module, name, buffer)


def _list_buffers(modules: list[nn.Module]) -> list[tuple[nn.Module, str, torch.Tensor]]:
    buffers = []
    for module in modules:
        buffers += [(module, name, buffer) for name, buffer in module.named_buffers(recurse=False)]
    return buffers


def _copy_all(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    """Copy each source into its target, in one request: one by one they would be a hundred, at every attack."""
    if sources:
        torch._foreach_copy_(targets, sources)
