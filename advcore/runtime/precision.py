"""How passes of a model run: precision, memory layout, compilation. Results stay the same, up to rounding."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import asdict, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from advcore.deprecation import forward_method, forward_renamed
from advcore.errors import check, check_one_of, describe_exception, must, require
from advcore.runtime import cuda_graphs as graphs
from advcore.runtime.borrow import borrow
from advcore.runtime.cpu_defaults import look_up_defaults
from advcore.runtime.device import has_bfloat16, has_graphs
from advcore.runtime.outputs import read_logits
from advcore.settings import settings

AUTOCASTS = ("auto", "none", "bfloat16")
# Settings that change bits: a resumed run keeps them. `deferred` only changes when a failure is noticed.
RECORDED = ("autocast", "channels_last", "compiled", "fused", "graphed")
# Attribute of a network that names its family, for `cpu_defaults`; the models of `advcore.models` have it.
FAMILY = "advcore_family"


@settings
class Speed:
    """Settings for the speed of training and selection; null and "auto" choose what suits the device.

    Perturbations, projections, losses, residuals and solvers stay in float32 or wider whatever is set.

    Parameters
    ----------
    autocast : precision of the model's passes: "bfloat16", or "none"; "auto" is bfloat16 on CUDA devices that have it.
    channels_last : lay out images and the weights of convolutions channels last; null: on CUDA if the model can take
        that, and on a CPU where a committed table says that it is faster for models of this family (docs/speed.md).
    compiled : compile the model's forward pass by torch.compile; the first passes take long. null: no.
    fused : do the optimiser's step in one kernel; null: on CUDA, and on a CPU as the table says.
    deferred : let the device skip all steps from the first one whose loss or gradient is not finite; the host looks for
        it every 256 steps and at the end of an epoch. false looks at every step, which waits for the device. Needs
        `fused`. null: on CUDA, with one process.
    graphed : record the loop of a PGD attack as one CUDA graph when a batch of its shape comes the second time; this
        needs one restart and a model in eval mode, and other attacks run as they are. null: no.
    """

    autocast: str = "auto"
    channels_last: bool | None = None
    compiled: bool | None = None
    fused: bool | None = None
    deferred: bool | None = None
    graphed: bool | None = None

    def __post_init__(self) -> None:
        lacks_fused = self.deferred and self.fused is False
        way_out = "only a fused step can be skipped on the device"
        require(
            check_one_of("autocast", self.autocast, AUTOCASTS),
            check(not lacks_fused, "deferred", "false without fused", True, way_out),
        )

    def resolve(self, device: torch.device, processes: int = 1, family: str | None = None) -> "Speed":
        """Give each setting that is left out the value that suits `device`, and on a CPU the model's `family`.

        Nothing is measured: the same settings, device, processes, family and torch give the same values. Raises
        ConfigError for what the device does not have.
        """
        if self.graphed and not has_graphs(device):
            require(must("graphed", "null or false on a cpu", True, "only CUDA has graphs"))
        is_cuda = device.type == "cuda"
        faster = look_up_defaults(family, torch.__version__) if device.type == "cpu" else {}
        autocast = self.autocast
        if autocast == "auto":
            autocast = "bfloat16" if has_bfloat16(device) else "none"
        fused = _or_default(self.fused, is_cuda or bool(self.deferred) or faster.get("fused", False))
        return Speed(
            autocast=autocast,
            channels_last=_or_default(self.channels_last, is_cuda or faster.get("channels_last", False)),
            compiled=bool(self.compiled),
            fused=fused,
            deferred=_or_default(self.deferred, is_cuda and fused and processes == 1),
            graphed=bool(self.graphed),
        )

    def resolve_for(self, model: nn.Module, x: Tensor, processes: int = 1) -> "Speed":
        """Resolve the settings for a model and images x (B, C, H, W).

        A model that views memory as channels first keeps that layout by default. Raises ConfigError if `channels_last`
        is set for such a model.
        """
        speed = self.resolve(x.device, processes, find_family(model))
        refusal = _try_channels_last(model, x) if speed.channels_last else None
        if refusal is None:
            return speed
        if self.channels_last:
            require(must("channels_last", "false for this model", True, refusal))
        return replace(speed, channels_last=False)

    def complete_from(self, recorded: Mapping[str, object] | None, device: torch.device) -> "Speed":
        """Take the settings that are left out from the run that is resumed, so that its bits stay the same.

        recorded : what `record` returned in that run; None for a run from before there was a record, which used no
            defaults of a CPU. A run on another kind of device has other bits anyway: then nothing is taken.
        """
        recorded = recorded or PLAIN.record(torch.device("cpu"))
        if recorded["device"] != device.type:
            return self
        left_out = [name for name in RECORDED if getattr(self, name) in (None, "auto")]
        if self.deferred:
            left_out = [name for name in left_out if name != "fused"]  # `deferred` decides it
        taken: dict = {name: recorded[name] for name in left_out}
        return replace(self, **taken)

    def record(self, device: torch.device) -> dict[str, object]:
        """Return the kind of device and the resolved settings that change bits, for `complete_from`."""
        return {"device": device.type} | {name: value for name, value in asdict(self).items() if name in RECORDED}

    def lay_out(self, model: nn.Module) -> nn.Module:
        """Return the model itself, its weights laid out as `channels_last` says."""
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        """Let all passes inside (`run_model`) use these settings, which must be resolved."""
        before = _active.set(self)
        try:
            yield
        finally:
            _active.reset(before)
            if _active.get() is None:  # both caches hold models
                _compile.cache_clear()
                graphs.forget()

    settled = forward_method("advcore.runtime.precision.Speed.settled", "resolve")
    suited = forward_method("advcore.runtime.precision.Speed.suited", "resolve_for")
    prepared = forward_method("advcore.runtime.precision.Speed.prepared", "lay_out")
    running = forward_method("advcore.runtime.precision.Speed.running", "activate")


def _or_default(value: bool | None, default: bool) -> bool:
    return default if value is None else value


PLAIN = Speed(autocast="none", channels_last=False, compiled=False, fused=False, deferred=False, graphed=False)
_active: ContextVar[Speed | None] = ContextVar("speed", default=None)


def find_family(model: nn.Module) -> str | None:
    """Return the family that a network names (`FAMILY`), itself or as the last module of a Sequential; else None.

    Only the models of `advcore.models` name one.
    """
    while isinstance(model, nn.Sequential) and len(model) and not hasattr(model, FAMILY):
        model = model[-1]
    return getattr(model, FAMILY, None)


def get_speed() -> Speed:
    """Return the settings of the innermost `Speed.activate` here, or `PLAIN` outside of any."""
    return _active.get() or PLAIN


@contextlib.contextmanager
def disable_compilation(*, in_full: bool = False) -> Iterator[None]:
    """Run the passes inside layer by layer, so that hooks see them; `in_full`: without autocast as well.

    That holds for what the caller compiled too: by torch.compile(model), by model.compile(), or a part of the model.
    """
    speed = get_speed()
    with contextlib.ExitStack() as stack:
        stack.enter_context(replace(speed, compiled=False, autocast="none" if in_full else speed.autocast).activate())
        if "torch._dynamo" in sys.modules:  # importing it takes a second, and without it nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def run_model(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of images x (B, C, H, W), in float32 or wider, by the active settings.

    The model gets a copy of x, which it may change in place. Raises ConfigError for an output without logits
    (`read_logits`).
    """
    speed = get_speed()
    x = x.clone(memory_format=torch.channels_last) if speed.channels_last else x.clone()
    forward: Callable[[Tensor], Tensor] = _compile(model) if speed.compiled else model
    if speed.autocast == "none":
        logits = read_logits(forward(x), len(x))
    else:
        with torch.autocast(x.device.type, getattr(torch, speed.autocast)):
            logits = read_logits(forward(x), len(x))
    if logits.dtype == torch.float64:
        return logits
    return logits.float()  # a model may itself run in half precision, or less


def measure_precision(logits: Tensor) -> float:
    """Return the relative distance of neighbouring numbers in the narrowest type that holds all these logits exactly.

    Logits of a model that itself runs in half precision are float32 here, and as coarse as before.
    """
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(logits, logits.to(dtype).to(logits.dtype)):
            return torch.finfo(dtype).eps
    return torch.finfo(logits.dtype).eps


def _try_channels_last(model: nn.Module, x: Tensor) -> str | None:
    """Lay the model's weights out channels last, and run it on such images x.

    Returns None if it takes them, else its error, with the weights laid out as before.
    """
    try:
        model.to(memory_format=torch.channels_last)
        with borrow(model, training=False), torch.no_grad():
            model(x.clone(memory_format=torch.channels_last))
    except RuntimeError as error:
        model.to(memory_format=torch.contiguous_format)
        return describe_exception(error)
    return None


@lru_cache(maxsize=4)
def _compile(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.compile(model)


# names of the last release
__getattr__ = forward_renamed(
    __name__,
    {
        "current": "advcore.runtime.precision.get_speed",
        "family_of": "advcore.runtime.precision.find_family",
        "uncompiled": "advcore.runtime.precision.disable_compilation",
    },
)
