"""How passes of a model run: precision, memory layout, compilation. What is computed stays the same, up to rounding."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from advcore import graphs
from advcore.borrow import borrow
from advcore.device import captures, has_bfloat16
from advcore.errors import in_a_line, must, one_of, require
from advcore.types import settings

AUTOCASTS = ("auto", "none", "bfloat16")


@settings
class Speed:
    """What training and selection do for speed; null and "auto": what suits the device.

    Perturbations, projections, losses, residuals and solvers stay in float32 or wider whatever is set.

    Parameters
    ----------
    autocast : precision of the model's passes: "bfloat16", or "none"; "auto" is bfloat16 on CUDA devices that have it.
    channels_last : images and weights of convolutions lie channels last; null: on CUDA, if the model can take that.
    compiled : torch.compile of the model's forward; its first passes take long. null: no.
    fused : the optimiser's step as one kernel; null: on CUDA.
    deferred : the device skips steps from the first one on whose loss or gradient is not finite, and the host looks
        every 256 steps and at the end of an epoch; false looks at every step, and waits for the device. Needs `fused`.
        null: on CUDA, with one process.
    graphed : the loop of a PGD attack with one restart, on a model in eval mode, as one CUDA graph, recorded when a
        batch of its shape comes the second time; other attacks run as they are. null: no.
    """

    autocast: str = "auto"
    channels_last: bool | None = None
    compiled: bool | None = None
    fused: bool | None = None
    deferred: bool | None = None
    graphed: bool | None = None

    def __post_init__(self):
        require(
            one_of("autocast", self.autocast, AUTOCASTS),
            must("deferred", "false without fused", True, "only a fused step can be skipped on the device")
            if self.deferred and self.fused is False
            else None,
        )

    def settled(self, device: torch.device, processes: int = 1) -> "Speed":
        """With a value for each, as `device` has it. Raises ConfigError for what it has not."""
        cuda = device.type == "cuda"
        require(
            must("graphed", "null or false on a cpu", True, "only CUDA has graphs")
            if self.graphed and not captures(device)
            else None
        )
        fused = cuda or bool(self.deferred) if self.fused is None else self.fused
        deferred = cuda and fused and processes == 1 if self.deferred is None else self.deferred
        return Speed(
            autocast=("bfloat16" if has_bfloat16(device) else "none") if self.autocast == "auto" else self.autocast,
            channels_last=cuda if self.channels_last is None else self.channels_last,
            compiled=bool(self.compiled),
            fused=fused,
            deferred=deferred,
            graphed=bool(self.graphed),
        )

    def suited(self, model: nn.Module, x: Tensor, processes: int = 1) -> "Speed":
        """`settled`, for a model on the images x: one that looks at memory as channels first (`view`) is left so.
        Raises ConfigError if `channels_last` was asked for."""
        found = self.settled(x.device, processes)
        refused = _refused(model, x) if found.channels_last else None
        if refused is None:
            return found
        require(must("channels_last", "false for this model", True, refused) if self.channels_last else None)
        return replace(found, channels_last=False)

    def prepared(self, model: nn.Module) -> nn.Module:
        """The model itself, its weights laid out as `channels_last` has it."""
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Passes inside (`passed`) run so; call it on what `settled` gave."""
        before = _now.set(self)
        try:
            yield
        finally:
            _now.reset(before)
            if _now.get() is None:
                _compiled_of.cache_clear()  # it would keep the models
                graphs.forget()


PLAIN = Speed(autocast="none", channels_last=False, compiled=False, fused=False, deferred=False, graphed=False)
_now: ContextVar[Speed | None] = ContextVar("speed", default=None)


def current() -> Speed:
    """How passes run here; plainly where nothing was said."""
    return _now.get() or PLAIN


@contextlib.contextmanager
def uncompiled(*, in_full: bool = False) -> Iterator[None]:
    """Passes inside run layer by layer, so that hooks see them; `in_full`: without autocast too."""
    with replace(current(), compiled=False, **({"autocast": "none"} if in_full else {})).running():
        yield


def passed(model: nn.Module, x: Tensor) -> Tensor:
    """`model` of a copy of the images x (B, C, H, W), which it may change in place; logits in float32 or wider."""
    now = current()
    x = x.clone(memory_format=torch.channels_last) if now.channels_last else x.clone()
    call = _compiled_of(model) if now.compiled else model
    if now.autocast == "none":
        return call(x)
    with torch.autocast(x.device.type, getattr(torch, now.autocast)):
        logits = call(x)
    half = isinstance(logits, Tensor) and logits.dtype in (torch.bfloat16, torch.float16)
    return logits.float() if half else logits


def _refused(model: nn.Module, x: Tensor) -> str | None:
    """What the model says, its weights and the images x channels last; None if it takes them, and lies so then."""
    try:
        model.to(memory_format=torch.channels_last)
        with borrow(model, training=False), torch.no_grad():
            model(x.clone(memory_format=torch.channels_last))
    except RuntimeError as error:
        model.to(memory_format=torch.contiguous_format)
        return in_a_line(error)
    return None


@lru_cache(maxsize=4)
def _compiled_of(model: nn.Module) -> nn.Module:
    return torch.compile(model)
