"""Floating-point operations of one pass of one example, by torch's own counter."""

import contextlib
import math
import random
import sys
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import sub
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from advcore.errors import describe_exception
from advcore.runtime.borrow import borrow
from advcore.runtime.device import list_generator_devices
from advcore.runtime.outputs import read_logits
from advcore.runtime.precision import disable_compilation

# Two batches are measured: by what the larger takes more, what acts on the weights alone, once per batch, is left out.
_SIZES = (2, 3)  # one image alone is what some networks refuse, or squeeze away
_GREY = 0.5  # the value of their pixels: no operation's number depends on it


@dataclass(frozen=True)
class PassCost:
    """Floating-point operations per example of a forward pass, and of the backward pass that follows.

    problem : why they could not be counted, in one line; empty if they were.
    """

    forward: int = 0
    backward: int = 0
    problem: str = ""


NO_COST = PassCost()
_known: weakref.WeakKeyDictionary[nn.Module, dict[tuple, PassCost]] = weakref.WeakKeyDictionary()


def find_cost(model: nn.Module, x: Tensor) -> PassCost:
    """Return what a pass of the model at images x (B, C, H, W) costs per example.

    The backward pass leads to x if that requires a gradient, and to the parameters that do; without either, or where
    autograd does not record, there is none. The first call for a model, an image size and a set of parameters measures
    (`measure_cost`), later ones look it up.
    """
    if not isinstance(model, nn.Module):
        return PassCost(problem=f"a {type(model).__name__} is called in place of a module")
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    flags: tuple[bool, ...] = ()
    to_images = False
    if torch.is_grad_enabled():
        to_images = x.requires_grad
        flags = tuple(parameter.requires_grad for parameter in model.parameters())
    if not any(flags):
        flags = ()
    costs = _known.setdefault(model, {})
    key = (x.shape[1:], x.device, to_images, flags)
    if key not in costs:
        trained = [parameter for parameter, flag in zip(model.parameters(), flags, strict=False) if flag]
        costs[key] = measure_cost(model, x, trained, to_images=to_images)
    return costs[key]


def find_gradient_costs(model: nn.Module, x: Tensor) -> tuple[PassCost, PassCost]:
    """Return what two passes cost: one with a backward pass to the images x alone, a double one (`measure_double`).

    Both are measured once for a model, an image size and a set of parameters that require a gradient.
    """
    flags = tuple(parameter.requires_grad for parameter in model.parameters())
    costs = _known.setdefault(model, {})
    to_images = (x.shape[1:], x.device, True, ())
    double = (x.shape[1:], x.device, "double", flags)
    if to_images not in costs:
        costs[to_images] = measure_cost(model, x, (), to_images=True)
    if double not in costs:
        trained = [parameter for parameter, flag in zip(model.parameters(), flags, strict=True) if flag]
        costs[double] = measure_double(model, x, trained)
    return costs[to_images], costs[double]


def measure_cost(model: nn.Module, x: Tensor, trained: Sequence[nn.Parameter], *, to_images: bool) -> PassCost:
    """Count the operations of a forward pass, and of its backward pass to the parameters `trained`, and to the images.

    Counted are convolutions, matrix products and attention, 2 operations for each product that is summed, as torch
    counts them; not what acts on each element alone, such as an activation or a BatchNorm, nor on the weights alone,
    once per batch, such as a reparametrisation, and no custom kernel. The model runs in eval mode, on grey images
    shaped like x (B, C, H, W), and is restored.

    Cost: forward and backward passes of five images.
    """

    return _measure_each(partial(_count_operations, model, trained), model, trained, x, is_leaf=to_images)


def measure_double(model: nn.Module, x: Tensor, trained: Sequence[nn.Parameter]) -> PassCost:
    """Count the operations of a backward pass to the parameters `trained` through a backward pass to the images.

    That is the gradient of a loss which is itself computed from an input gradient. As `measure_cost`; only `backward`
    is counted.
    """

    def run(images: Tensor) -> tuple[int, int]:
        losses = read_logits(model(images.clone()), len(images)).logsumexp(1)
        (gradient,) = torch.autograd.grad(losses.sum(), images, create_graph=True)
        with _count() as backward:
            torch.autograd.grad(gradient.square().sum(), trained, allow_unused=True)
        return 0, backward.get_total_flops()

    return _measure_each(run, model, trained, x, is_leaf=True)


def _measure_each(
    run: Callable[[Tensor], tuple[int, int]],
    model: nn.Module,
    trained: Sequence[nn.Parameter],
    x: Tensor,
    *,
    is_leaf: bool,
) -> PassCost:
    """Return what `run` counts more for one more image; whatever it raises is the problem of the cost.

    While it runs, the parameters `trained` require gradients, and no others.

    torch refuses to count, or to differentiate twice, by many errors. Errors of the
    network itself appear in its next pass.
    """
    problem = ""
    for has_hooks in (False, True):
        try:
            with _run_plainly(model, has_hooks=has_hooks):
                for parameter in trained:
                    parameter.requires_grad_(True)
                fewer, more = (run(_make_images(x, size, is_leaf=is_leaf)) for size in _SIZES)
        except Exception as error:
            problem = problem or describe_exception(error)
        else:
            return PassCost(*map(sub, more, fewer))
    return PassCost(problem=problem)


def _make_images(x: Tensor, size: int, *, is_leaf: bool) -> Tensor:
    return torch.full((size, *x.shape[1:]), _GREY, dtype=x.dtype, device=x.device, requires_grad=is_leaf)


@contextlib.contextmanager
def _run_plainly(model: nn.Module, *, has_hooks: bool) -> Iterator[None]:
    """Run the model in eval mode and layer by layer, with attention and recurrence as products, which are counted.

    has_hooks : leave hooks on what layers return in place, for a model that does not run without. Else they are left
    out: those who put them there want the passes of their images alone.
    """
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        disable_compilation(in_full=True),
        sdpa_kernel(SDPBackend.MATH),
        torch.random.fork_rng(devices=list_generator_devices()),
        borrow(model),
        contextlib.ExitStack() as stack,
    ):
        # A network may draw from these too, and training continues from their state.
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # which runs an encoder layer as one kernel
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of a setting that stays as it is
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        for module in model.modules():
            if not (has_hooks or isinstance(module, torch.jit.ScriptModule)):
                stack.callback(setattr, module, "_forward_hooks", module._forward_hooks)
                module._forward_hooks = OrderedDict()
        yield


def _count_operations(model: nn.Module, trained: Sequence[nn.Parameter], images: Tensor) -> tuple[int, int]:
    """Return the operations of a forward and of a backward pass of images, of a borrowed model."""
    with _count() as forward:
        logits = read_logits(model(images.clone()), len(images))
    inputs: list[Tensor] = [*trained]
    if images.requires_grad:
        inputs.append(images)
    if not inputs or not logits.requires_grad:
        return forward.get_total_flops(), 0
    with _count() as backward:
        torch.autograd.grad(logits.sum(), inputs, allow_unused=True)
    return forward.get_total_flops(), backward.get_total_flops()


def _keep_compiler_away() -> None:
    """Let torch's counter run without importing torch._dynamo, which takes most of a second.

    It is imported in order to leave the counter's dispatch uncompiled, and torch keeps what that gives in this
    attribute. Nothing is compiled while operations are counted (`_run_plainly`). Where another release keeps it
    elsewhere, the import happens.
    """
    dispatch = getattr(getattr(flop_counter, "_FlopCounterMode", None), "__torch_dispatch__", None)
    function = getattr(dispatch, "__wrapped__", None)
    if function is not None and "torch._dynamo" not in sys.modules:
        setattr(function, "__dynamo_disable", function)


_keep_compiler_away()


def _count() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _count_convolution})


def _count_convolution(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *rest: Any,
    **others: Any,
) -> int:
    """Count a convolution's backward pass: each gradient takes as many operations as the forward pass.

    torch's own formula counts the weight's gradient of a grouped convolution once for each group.
    """
    _, _, _, _, transposed, _, _, mask = rest
    places = x_shape if transposed else grad_shape
    return 2 * sum(mask[:2]) * places[0] * math.prod(places[2:]) * math.prod(weight_shape)
