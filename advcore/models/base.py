"""Settings that all models share, normalisation as a layer, and the search for the linear head."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor, nn

from advcore.deprecation import forward_method
from advcore.errors import ConfigError, check, check_one_of, must, require
from advcore.runtime.precision import FAMILY
from advcore.settings import settings

_PerChannel = float | Sequence[float] | Tensor


@settings
class ModelSettings:
    """Settings that all models share.

    Parameters
    ----------
    normalize : "data": the first layer subtracts the training images' mean and divides by their deviation, per
        channel; "none": pixels go in as they are. Either way images, eps and attacks stay in [0, 1].
    head : name of the last linear layer; None finds it.

    parts : functions and classes that the network is made of; the last builds it. They use nothing but each other, what
        they import themselves, and torch, F, Tensor and nn as imported here: `advcore export` writes them down.
    fixed_arguments : arguments of the last part that are no settings.
    needs : packages that the parts import.
    family : name of a group of architectures that run alike, known to `advcore.runtime.cpu_defaults`; or None.
    example : settings with which the contract tests build it, where the defaults do not do.
    """

    normalize: str = "data"
    head: str | None = None
    parts: ClassVar[tuple[Callable[..., object], ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[str | None] = None
    fixed_arguments: ClassVar[Mapping[str, object]] = {}
    example: ClassVar[Mapping[str, object]] = {}
    body = forward_method("advcore.models.base.ModelSettings.body", "build")

    def __post_init__(self) -> None:
        require(check_one_of("normalize", self.normalize, ("data", "none")))

    def list_arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, object]:
        """Return the keyword arguments, plain values, that the last of the parts is called with."""
        return {"num_classes": num_classes, "channels": shape[0], **self.fixed_arguments}

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """Build the network for normalised images (C, H, W), and name its family in it."""
        network = self.parts[-1](**self.list_arguments(num_classes, shape))
        assert isinstance(network, nn.Module), "the last of the parts builds the network"
        setattr(network, FAMILY, self.family)
        return network


class Normalize(nn.Module):
    """Normalises images (B, C, H, W) in [0, 1] per channel: (x - mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1).float())
        self.register_buffer("std", std.view(1, -1, 1, 1).float())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def add_normalization(model: nn.Module, mean: _PerChannel, std: _PerChannel) -> nn.Sequential:
    """Return a model that takes images in [0, 1] and normalises them itself, before `model`: (x - mean) / std.

    It replaces `torchvision.transforms.Normalize(mean, std)` in the data, so that attacks, and eps, see pixels.

    Parameters
    ----------
    model : is shared, not copied.
    mean, std : one number per channel, or one for all, in the units of images in [0, 1]; std is above 0.

    Raises ConfigError for other numbers, such as those for images in 0-255.
    """
    shift = torch.as_tensor(mean, dtype=torch.float32).flatten()
    scale = torch.as_tensor(std, dtype=torch.float32).flatten()
    way_out = "divide the mean and std of 0-255 images by 255"
    is_right = bool(((scale > 0) & (scale <= 1)).all()) and len(scale) in (1, len(shift))
    require(
        check(len(shift) and ((shift >= 0) & (shift <= 1)).all(), "mean", "numbers in [0, 1]", mean, way_out),
        check(is_right, "std", f"numbers in (0, 1], {len(shift)} as in mean or one", std, way_out),
    )
    device = next(chain(model.parameters(), model.buffers()), shift).device
    return nn.Sequential(Normalize(shift, scale).to(device), model)


def measure_channels(batches: Iterator[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation per channel (C,) over batches of (indices, x, y).

    The deviation of a constant channel is 1.
    """
    count = 0
    total = squares = torch.zeros(())
    for _, x, _ in batches:
        x = x.double()
        count += x.numel() // x.shape[1]
        total = total + x.sum((0, 2, 3))
        squares = squares + x.square().sum((0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    return mean, torch.where(std > 1e-6, std, torch.ones_like(std))


def find_head(model: nn.Module, x: Tensor, name: str | None = None) -> nn.Linear:
    """Find the linear layer whose output is the logits.

    Parameters
    ----------
    model : borrowed in eval mode.
    x : (B, C, H, W) any images it accepts.
    name : dotted name of the layer, or the end of one; None looks at all linear layers.

    Raises ConfigError, naming the model's linear layers, if there is none. Cost: one forward pass of x.
    """
    linear = {key: module for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    names = ", ".join(linear) or "the model has none"
    if name is not None:
        linear = {key: module for key, module in linear.items() if f".{key}".endswith(f".{name}")}
        require(check(len(linear) == 1, "head", f"the name of one linear layer ({names})", name))
    outputs: dict[str, Tensor] = {}

    def catch(key: str, module: nn.Module, args: tuple, out: Tensor) -> None:
        outputs[key] = out

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for key, module in linear.items():
            hooks.enter_context(module.register_forward_hook(partial(catch, key)))
        logits = model(x.clone())
    heads = [key for key, out in outputs.items() if _is_logits(out, logits)]
    if not heads:
        rule = "a last torch.nn.Linear whose output is the logits (B, C)"
        raise ConfigError(must("head", rule, name, f"end the model in one; linear layers it has: {names}"))
    return linear[heads[-1]]


def _is_logits(out: Tensor, logits: object) -> bool:
    """Whether a layer's output is the logits (B, C), which in a diverged model may hold NaN."""
    return (
        isinstance(logits, Tensor)
        and logits.ndim == 2
        and out.shape == logits.shape
        and torch.equal(out.nan_to_num(), logits.nan_to_num())
    )


class Tap:
    """Holds the tensor that last went into a layer, once one has."""

    features: Tensor


@contextlib.contextmanager
def tap_features(head: nn.Linear) -> Iterator[Tap]:
    """Catch the head's input, the features (B, D) in float32 or wider, at each forward pass that is `uncompiled`."""
    tap = Tap()

    def catch(module: nn.Module, args: tuple) -> None:
        tap.features = args[0].detach().to(torch.promote_types(args[0].dtype, torch.float32))

    with head.register_forward_pre_hook(catch):
        yield tap
