"""Finds the head, the last linear layer, by the gradient of its parameters, and reads its input features."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advcore.errors import ConfigError, SettingProblem, check, describe_exception, require, shorten
from advcore.runtime.borrow import record_gradients
from advcore.runtime.outputs import read_logits
from advcore.runtime.precision import disable_compilation, measure_precision
from advcore.runtime.watch import ABSENT, describe_fault

Head = nn.Linear | nn.Conv2d
"""A linear layer, or a convolution with a kernel of 1 x 1, which is linear in pooled features (B, D, 1, 1)."""

_TOLERANCE = 2e-3  # of the largest entry of a gradient; some devices shorten single precision in products
_RULE = "must be a last torch.nn.Linear whose output is the logits (B, C)"


class _Reason(NamedTuple):
    """Why a layer is not the head, and what to do about it."""

    got: str
    way_out: str


@dataclass(eq=False)
class _Calls:
    """The calls of a layer in a forward pass: how many, and what it read and returned in the last one."""

    count: int = 0
    features: Tensor = field(default_factory=lambda: torch.zeros(0))
    outputs: Tensor = field(default_factory=lambda: torch.zeros(0))
    dtype: torch.dtype = torch.float32

    def catch(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Tensor], out: Tensor) -> None:
        self.count += 1
        self.features = _read_input(args, kwargs)
        self.outputs = _copy(out)
        self.dtype = out.dtype


def _read_input(args: tuple, kwargs: Mapping[str, Tensor]) -> Tensor:
    """Return what a layer was called with, by place or by keyword, as `_copy`."""
    return _copy(next(iter((*args, *kwargs.values()))))


def _copy(x: Tensor) -> Tensor:
    """Return a copy in float32 or wider, (B, D, 1, 1) as (B, D): a model may go on to change x in place."""
    copy = x.detach().to(torch.promote_types(x.dtype, torch.float32), copy=True)
    return copy.flatten(1) if x.shape[2:].numel() == 1 else copy


@record_gradients
def find_head(model: nn.Module, x: Tensor, name: str | None = None) -> Head:
    """Find the linear layer whose output is the logits.

    It is the layer whose parameters get, by autograd, the gradient that follows from its input and the logits. What
    merely passes images on may be around it, such as AveragedModel, DataParallel or what torch.compile returns.

    Parameters
    ----------
    model : borrowed in eval mode.
    x : (B, C, H, W) any images it accepts.
    name : dotted name of the layer, or the end of one; None looks at all linear layers.

    Raises ConfigError, with the reason, if there is none or several. Cost: one forward pass of x, and a backward pass
    of the layers from the first candidate on.
    """
    layers = {key: module for key, module in model.named_modules() if _can_be_head(module)}
    linear = ", ".join(key for key, layer in layers.items() if isinstance(layer, nn.Linear))
    names = shorten(linear) or "the model has none"
    if name is not None:
        layers = {key: module for key, module in layers.items() if f".{key}".endswith(f".{name}")}
        require(check(len(layers) == 1, "head", f"the name of one linear layer ({names})", name))
    reasons = _judge_layers(model, x, layers)
    heads = [key for key, reason in reasons.items() if reason is None]
    if len(heads) > 1:
        got = f"several whose outputs are added: {', '.join(heads)}"
        raise ConfigError(SettingProblem("head", _RULE, got, "use a single layer on all features"))
    if not heads:
        missing = _Reason("none with as many outputs as there are logits", "end the model in one")
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            missing = _Reason(
                "a torch.jit script, whose layers cannot be inspected", "pass the model before it was scripted"
            )
        reason = next(filter(None, reasons.values()), missing)
        way_out = f"{reason.way_out}; linear layers it has: {names}"
        raise ConfigError(SettingProblem("head", _RULE, reason.got, way_out))
    return layers[heads[0]]


def _can_be_head(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return set(module.kernel_size) == {1} and module.groups == 1
    return isinstance(module, nn.Linear)


def _judge_layers(model: nn.Module, x: Tensor, layers: dict[str, Head]) -> dict[str, _Reason | None]:
    """Return why each layer with as many outputs as logits is not the head, the last layer first; None for a head.

    In a diverged model, whose logits are NaN, the last of them is taken.
    """
    calls = {key: _Calls() for key in layers}
    parameters = [parameter for layer in layers.values() for parameter in _list_parameters(layer)]
    with contextlib.ExitStack() as stack:
        for parameter in parameters:
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(True)
        for key, layer in layers.items():
            stack.enter_context(layer.register_forward_hook(calls[key].catch, with_kwargs=True))
        with run_layer_by_layer(model):
            logits = _run_recorded(model, x)
        called = [key for key in reversed(layers) if calls[key].count]
        fitting = [key for key in called if count_classes(layers[key]) == logits.shape[1]]
        if bool(torch.isnan(logits).any()):
            return dict.fromkeys(fitting[:1])
        reasons = {key: _find_reason(key, layers[key], calls[key], logits) for key in fitting}
        heads = [calls[key] for key, reason in reasons.items() if reason is None]
        if len(heads) == 1:
            _refuse_changed(heads[0].outputs, heads[0].dtype, logits.detach())
        return reasons


def _run_recorded(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of a pass that autograd records. Raises ConfigError where the model forbids that itself."""
    try:
        return read_logits(model(x.clone()), len(x))
    except RuntimeError as error:
        if "Inference tensors" not in str(error):
            raise
        raise ConfigError(describe_fault(ABSENT)) from error


def count_classes(head: Head) -> int:
    """Return how many outputs a head has."""
    return head.weight.shape[0]


def count_features(head: Head) -> int:
    """Return how many numbers a head reads of each image."""
    return head.weight.shape[1]


def _list_parameters(layer: Head) -> list[nn.Parameter]:
    return [parameter for parameter in layer.parameters() if parameter.is_floating_point()]  # others are quantised


def _find_reason(key: str, layer: Head, calls: _Calls, logits: Tensor) -> _Reason | None:
    """Return why a layer is not the head, or None: its parameters' gradient is the one that follows from its input."""
    if calls.count > 1:
        return _Reason(f"{key}, which is called {calls.count} times", "use a separate layer for the logits")
    if calls.features.ndim != 2 or calls.outputs.numel() != logits.numel():
        return _Reason(f"{key}, which gives {tuple(calls.outputs.shape)}", "pool the features before the last layer")
    try:
        actual, expected = _differentiate(layer, calls.features, logits)
    except RuntimeError as error:
        way_out = "let gradients reach it, without torch.no_grad() and without changing its inputs in place"
        return _Reason(f"{key}, at which autograd fails ({describe_exception(error).partition(': [')[0]})", way_out)
    largest = expected.abs().amax()
    precision = max(torch.finfo(calls.dtype).eps, measure_precision(logits))
    allowed = largest * max(_TOLERANCE, 4 * precision)
    if bool((actual - expected).abs().amax() <= allowed):
        return None
    way_out = "return the output of a last linear layer as it is"
    if not bool(actual.any()):
        return _Reason(f"{key}, which gets no gradient from the logits", way_out)
    factor = float(actual @ expected / expected.square().sum())
    if bool((actual - factor * expected).abs().amax() <= allowed):
        return _Reason(f"{factor:.3g} times the output of {key}", f"{way_out}, and scale its weights or the loss")
    return _Reason(f"{key}, whose output is changed or whose weights are used twice", way_out)


def _differentiate(layer: Head, features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of fixed multiples of the logits with respect to a layer's parameters, twice, as vectors.

    By autograd, and as the product of the multiples and the features; the same if the layer is the head. Logits that
    are infinite, as of classes that are masked, count 0 times. Raises RuntimeError where autograd fails.
    """
    multiples = torch.arange(logits.numel(), device=logits.device, dtype=features.dtype).cos().view_as(logits)
    multiples = multiples.masked_fill(torch.isinf(logits), 0)
    parameters = _list_parameters(layer)
    row = (multiples.T @ features).view_as(layer.weight)
    parts = [(layer.weight, row)]
    if layer.bias is not None:
        parts.append((layer.bias, multiples.sum(0)))
    gradients = []
    for outputs in ([(logits, multiples)], parts):  # weights, too, may be calculated from parameters: weight norm
        values = [value for value, _ in outputs]
        factors = [factor.to(value.dtype) for value, factor in outputs]
        taken = torch.autograd.grad(
            values, parameters, factors, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        gradients.append(torch.cat([gradient.flatten().to(features.dtype) for gradient in taken]))
    return gradients[0], gradients[1]


def _refuse_changed(outputs: Tensor, dtype: torch.dtype, logits: Tensor) -> None:
    """Raise ConfigError unless the logits (B, C) are a layer's outputs of this dtype, up to a constant for each class.

    A model that clamps, for example, may have changed no logit of the images at which its head was looked for.
    """
    shift = logits - outputs
    is_finite = torch.isfinite(shift)
    highest = shift.masked_fill(~is_finite, -torch.inf).amax(0)
    lowest = shift.masked_fill(~is_finite, torch.inf).amin(0)
    largest = outputs.masked_fill(~is_finite, 0).abs().amax()
    precision = max(torch.finfo(dtype).eps, measure_precision(logits))
    if bool((highest - lowest > largest * max(_TOLERANCE, 4 * precision)).any()):
        got = "one whose output is changed for some images, as by a clamp"
        raise ConfigError(SettingProblem("head", _RULE, got, "return the layer's output as it is"))


@contextlib.contextmanager
def run_layer_by_layer(model: nn.Module) -> Iterator[None]:
    """Run the passes inside as the model is written and on one device, so that hooks of its layers see them."""
    parallel = [module for module in model.modules() if isinstance(module, nn.DataParallel)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(disable_compilation())
        for module in parallel:  # it copies its module to each of these, and runs the copies in threads
            stack.callback(setattr, module, "device_ids", module.device_ids)
            module.device_ids = []
        yield


class Tap:
    """Holds the features (B, D) that last went into a layer, and its outputs (B, C), once there are any."""

    features: Tensor
    outputs: Tensor
    dtype: torch.dtype

    def check(self, logits: Tensor) -> None:
        """Raise ConfigError unless the logits (B, C) are the outputs, up to a constant for each class."""
        _refuse_changed(self.outputs, self.dtype, logits)


@contextlib.contextmanager
def tap_features(head: Head) -> Iterator[Tap]:
    """Catch the head's input, the features (B, D) in float32 or wider, at each pass that is `run_layer_by_layer`."""
    tap = Tap()

    def catch(module: nn.Module, args: tuple, kwargs: Mapping[str, Tensor]) -> None:
        tap.features = _read_input(args, kwargs)

    def catch_outputs(module: nn.Module, args: tuple, out: Tensor) -> None:
        tap.outputs = _copy(out)
        tap.dtype = out.dtype

    with (
        head.register_forward_pre_hook(catch, with_kwargs=True),
        head.register_forward_hook(catch_outputs),
    ):
        yield tap
