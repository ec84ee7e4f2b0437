"""State dicts of all models: besides plain tensors, expanded, sparse and quantised ones, and extra state."""

import copy
import io
from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor, nn

from advcore.errors import ConfigError, describe_exception, must


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Return whether a value is a tensor that holds its numbers: not sparse, nested, quantised or on "meta"."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_nested or value.is_meta)
    )


def has_arithmetic(value: object) -> TypeGuard[Tensor]:
    """Return whether torch calculates with a value: with plain tensors, but for 8-bit floats, which are for storage."""
    return is_plain(value) and not (value.is_floating_point() and value.element_size() == 1)


def narrow_expanded(tensor: Tensor) -> Tensor:
    """Return a view in which each number of a plain tensor lies once, which can be written to; an expanded one repeats.

    It is the tensor itself unless that is expanded.
    """
    if not is_plain(tensor) or tensor.is_contiguous():
        return tensor
    for dimension, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dimension] > 1:
            tensor = tensor.narrow(dimension, 0, 1)
    return tensor


def copy_value(value: object) -> object:
    """Return a copy, on the CPU, of a value of a state dict; torch clones no quantised tensor of every scheme."""
    if isinstance(value, Tensor) and not value.is_quantized:
        return value.detach().cpu().clone()
    return copy.deepcopy(value)


def dump_value(name: str, value: object) -> bytes:
    """Return the bytes that torch.save writes of a state dict's value, the same for equal ones. Raises ConfigError."""
    content = io.BytesIO()
    try:
        torch.save(copy_value(value), content)
    except Exception as error:  # what pickle and torch raise
        rule = "something that torch.save can write"
        raise ConfigError(must(f"the model's state {name}", rule, describe_exception(error))) from error
    return content.getvalue()


def is_same(name: str, value: object, other: object) -> bool:
    """Return whether two values of a state dict are equal, NaN and infinity to themselves."""
    if has_arithmetic(value) and has_arithmetic(other):
        return torch.equal(value.nan_to_num(), other.nan_to_num())
    return dump_value(name, value) == dump_value(name, other)


def copy_state(model: nn.Module) -> dict:
    """Return a copy of the model's state dict, on the CPU."""
    return {name: copy_value(value) for name, value in model.state_dict().items()}


def unexpand_buffers(model: nn.Module) -> None:
    """Give expanded buffers their own memory, so that they can be written to."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if narrow_expanded(buffer) is not buffer:
                setattr(module, name, buffer.clone())


def load_state(model: nn.Module, state: Mapping) -> None:
    """Load a state dict of the model's own version into it; its buffers are then no longer expanded."""
    unexpand_buffers(model)
    versioned = OrderedDict(state)
    # files keep no versions, without which torchvision's MNASNet loads nothing
    vars(versioned)["_metadata"] = getattr(model.state_dict(), "_metadata", None)
    model.load_state_dict(versioned)


def copy_infinite(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of each parameter that holds NaN or infinity, by name: a mask, perhaps."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if not is_finite(value)}


def has_diverged(model: nn.Module, before: Mapping[str, Tensor]) -> bool:
    """Return whether a parameter holds NaN or infinity that was not there before (`copy_infinite`).

    Buffers are the model's own affair: a mask of -inf may come and go.
    """
    for name, value in model.named_parameters():
        if not is_finite(value) and not (name in before and _keeps_finite(value, before[name])):
            return True
    return False


def is_finite(value: Tensor) -> bool:
    """Return whether a tensor is without NaN and infinity; those without arithmetic are not looked into."""
    return not has_arithmetic(value) or bool(torch.isfinite(value).all())


def _keeps_finite(value: Tensor, before: Tensor) -> bool:
    return bool((torch.isfinite(value) | (value == before)).all())
