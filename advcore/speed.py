"""How passes of a model run: precision, memory layout, compilation. What is computed stays the same, up to rounding."""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from advcore import graphs
from advcore.borrow import borrow
from advcore.cpu_defaults import cpu_defaults
from advcore.device import captures, has_bfloat16
from advcore.errors import in_a_line, must, one_of, require
from advcore.types import settings

AUTOCASTS = ("auto", "none", "bfloat16")
RECORDED = ("autocast", "channels_last", "compiled", "fused", "graphed")
"""Settings that change bits, which a run that goes on keeps. `deferred` changes when a failure is noticed."""
FAMILY = "advcore_family"
"""Attribute of a network that names its family, for `cpu_defaults`; the models of `advcore.models` have it."""


@settings
class Speed:
    """What training and selection do for speed; null and "auto": what suits the device.

    Perturbations, projections, losses, residuals and solvers stay in float32 or wider whatever is set.

    Parameters
    ----------
    autocast : precision of the model's passes: "bfloat16", or "none"; "auto" is bfloat16 on CUDA devices that have it.
    channels_last : images and weights of convolutions lie channels last; null: on CUDA if the model can take that, and
        on a CPU where a committed table says that it is faster for models of this family (docs/speed.md).
    compiled : torch.compile of the model's forward; its first passes take long. null: no.
    fused : the optimiser's step as one kernel; null: on CUDA, and on a CPU as the table says.
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

    def settled(self, device: torch.device, processes: int = 1, family: str | None = None) -> "Speed":
        """Give each setting that is left out the value that suits `device`, and on a CPU the model's `family`.

        Never measures anything: the same settings, device, processes, family and torch give the same values. Raises
        ConfigError for what the device does not have.
        """
        require(
            must("graphed", "null or false on a cpu", True, "only CUDA has graphs")
            if self.graphed and not captures(device)
            else None
        )
        cuda = device.type == "cuda"
        measured = cpu_defaults(family, torch.__version__) if device.type == "cpu" else {}
        fused = cuda or bool(self.deferred) or measured.get("fused", False) if self.fused is None else self.fused
        channels_last = cuda or measured.get("channels_last", False)
        return Speed(
            autocast=("bfloat16" if has_bfloat16(device) else "none") if self.autocast == "auto" else self.autocast,
            channels_last=channels_last if self.channels_last is None else self.channels_last,
            compiled=bool(self.compiled),
            fused=fused,
            deferred=cuda and fused and processes == 1 if self.deferred is None else self.deferred,
            graphed=bool(self.graphed),
        )

    def suited(self, model: nn.Module, x: Tensor, processes: int = 1) -> "Speed":
        """`settled`, for a model on the images x: one that looks at memory as channels first (`view`) is left so.
        Raises ConfigError if `channels_last` was asked for."""
        found = self.settled(x.device, processes, family_of(model))
        refused = _refused(model, x) if found.channels_last else None
        if refused is None:
            return found
        require(must("channels_last", "false for this model", True, refused) if self.channels_last else None)
        return replace(found, channels_last=False)

    def as_recorded(self, recorded: Mapping[str, Any] | None, device: torch.device) -> "Speed":
        """Take what is left out here from a run that goes on, so that it goes on to the same bits.

        `recorded` is that run's `record`; None stands for a run from before there was one, which took nothing by
        default on a CPU. A run that was on another kind of device has other bits anyway, and keeps this one's defaults.
        """
        recorded = PLAIN.record(torch.device("cpu")) if recorded is None else recorded
        if recorded["device"] != device.type:
            return self
        left_out = [name for name in RECORDED if getattr(self, name) in (None, "auto")]
        if self.deferred:
            left_out = [name for name in left_out if name != "fused"]  # which it decides
        return replace(self, **{name: recorded[name] for name in left_out})

    def record(self, device: torch.device) -> dict[str, Any]:
        """Write down the settings and the kind of device, for `as_recorded`; call it on what `settled` gave."""
        return {"device": device.type} | {name: value for name, value in asdict(self).items() if name in RECORDED}

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


def family_of(model: nn.Module) -> str | None:
    """Return the family that a network names (`FAMILY`), itself or as the last module of a Sequential; else None.

    Only the models of `advcore.models` name one, so any other network is of none.
    """
    while isinstance(model, nn.Sequential) and len(model) and not hasattr(model, FAMILY):
        model = model[-1]
    return getattr(model, FAMILY, None)


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
