"""Put a model in a mode temporarily, and restore it exactly."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import nn

from advcore.errors import ConfigError, format_count, must
from advcore.runtime.device import suspend_autocast
from advcore.runtime.states import narrow_expanded

Function = TypeVar("Function", bound=Callable)


def record_gradients(function: Function) -> Function:
    """Decorate a function so that autograd records inside, whatever mode the caller is in, which is back afterwards.

    Under `torch.no_grad()` or `torch.inference_mode()` no gradient would reach an image: attacks would move nothing,
    and every model would look robust. Under a caller's `torch.autocast` rows and distances would be half precise: it is
    off inside, where settings (`Speed`) and the model itself say how precise a pass is.
    """
    return suspend_autocast()(torch.inference_mode(mode=False)(torch.enable_grad()(function)))


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


def find_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of images for the model: that of its first float parameter, or float32 if that is wider."""
    dtypes = (parameter.dtype for parameter in model.parameters() if parameter.dtype.is_floating_point)
    return torch.promote_types(next(dtypes, torch.float32), torch.float32)


def copy_from_inference(x: torch.Tensor) -> torch.Tensor:
    """Return x, or a copy of what was made under `torch.inference_mode()`, which autograd could not keep."""
    if x.is_inference():
        return x.clone()
    return x


def _refuse_inference(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    if any(parameter.is_inference() for parameter in parameters):
        built = f"{type(model).__name__} that was built inside"
        raise ConfigError(must("model", "built outside of torch.inference_mode()", built))


def set_mode(model: nn.Module, *, training: bool) -> None:
    """Put the model in eval or train mode; for training, the parts of it that are in eval mode stay so.

    A caller who puts some submodules in eval mode, such as BatchNorm with frozen statistics, wants them so in training.
    A model that is in eval mode as a whole was evaluated or loaded last, and trains as a whole.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)  # a model's own `train` may keep parts of it in eval mode
    if training and any(mode for _, mode in modes):
        _restore_modes((module, mode) for module, mode in modes if not mode)


def note_modes(model: nn.Module) -> list[str]:
    """Return a line on the submodules that stay in eval mode in training (`set_mode`), if there are any."""
    names = [name for name, module in model.named_modules() if name and not module.training]
    if not names or not any(module.training for module in model.modules()):
        return []
    count = format_count(len(names), "submodule")
    return [
        f"{count} in eval mode when passed, and kept so in training, the first {names[0]}; model.train() changes it"
    ]


@contextlib.contextmanager
def preserve_modes(model: nn.Module) -> Iterator[None]:
    """Restore the train or eval mode of each module, also on error."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        _restore_modes(modes)


def _restore_modes(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        if module.training != mode:  # setting an attribute of a module is slow
            module.training = mode


@contextlib.contextmanager
def borrow(model: nn.Module, *, training: bool = False) -> Iterator[nn.Module]:
    """Put `model` in eval or train mode, with no parameter requiring gradients, and restore it, also on error.

    The mode is that of `set_mode`: submodules that are in eval mode stay so in train mode.

    Restored are each module's mode, each parameter's `requires_grad` and gradient, and each buffer's content, because
    BatchNorm in train mode updates its statistics; quantised and nested buffers are constant. Gradients are set aside,
    so that a model that computes gradients while it predicts adds to none. Raises ConfigError as `find_device`. Cost:
    one copy of the buffers.
    """
    modules = list(model.modules())
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    _refuse_inference(model, (parameter for parameter, _, _ in flags))
    buffers = _list_buffers(modules)
    contents = [narrow_expanded(buffer.data) for _, _, buffer in buffers if _is_copied(buffer)]
    copies = [torch.empty_like(content) for content in contents]
    _copy_all(contents, copies)
    try:
        with preserve_modes(model):
            set_mode(model, training=training)
            for parameter, _, _ in flags:
                parameter.requires_grad_(False)
                parameter.grad = None
            yield model
    finally:
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


def _is_copied(buffer: torch.Tensor) -> bool:
    return not (buffer.is_quantized or buffer.is_nested)


def _copy_all(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    """Copy each source into its target, in one request: one by one they would be a hundred, at every attack."""
    if sources:
        torch._foreach_copy_(targets, sources)
