"""What every model setting shares, normalisation as a layer, and finding the linear head."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advcore.errors import ConfigError, must, one_of, require
from advcore.speed import FAMILY
from advcore.types import settings

NORMALIZE = ("data", "none")


@settings
class ModelSettings:
    """Settings that all models share.

    Parameters
    ----------
    normalize : "data": the first layer subtracts the training images' mean and divides by their deviation, per
        channel; "none": pixels go in as they are. Either way images, eps and attacks stay in [0, 1].
    head : name of the last linear layer; None finds it.
    """

    normalize: str = "data"
    head: str | None = None
    parts: ClassVar[tuple[Callable[..., Any], ...]] = ()
    """Functions and classes of which the last makes the network. They use nothing but each other, what they import
    themselves, and torch, F, Tensor and nn as imported here: an export writes them down (`advcore export`)."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages that they import."""
    family: ClassVar[str | None] = None
    """Architectures that run alike, whose defaults on a CPU `advcore.cpu_defaults` knows; None: of none."""

    def __post_init__(self):
        require(one_of("normalize", self.normalize, NORMALIZE))

    def arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        """What the last of the parts is called with, by name: plain values."""
        raise NotImplementedError

    def body(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """The network for normalised images (C, H, W), which names its family."""
        network = self.parts[-1](**self.arguments(num_classes, shape))
        setattr(network, FAMILY, self.family)
        return network


class Normalize(nn.Module):
    """(x - mean) / std per channel, of images (B, C, H, W) in [0, 1]."""

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1).float())
        self.register_buffer("std", std.view(1, -1, 1, 1).float())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def channel_statistics(batches: Iterator[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel (C,) over batches of (indices, x, y); 1 for a constant channel."""
    count, total, squares = 0, 0, 0
    for _, x, _ in batches:
        x = x.double()
        count += x.numel() // x.shape[1]
        total = total + x.sum((0, 2, 3))
        squares = squares + x.square().sum((0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    return mean, torch.where(std > 1e-6, std, torch.ones_like(std))


def find_head(model: nn.Module, x: Tensor, name: str | None = None) -> nn.Linear:
    """The linear layer whose output is the logits.

    Parameters
    ----------
    model : borrowed in eval mode.
    x : (B, C, H, W) any images it accepts.
    name : dotted name of the layer, or the end of one, when it is not to be looked for.

    Raises ConfigError when there is none, naming the model's linear layers. Cost: one forward pass of x.
    """
    linear = {key: module for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    known = ", ".join(linear) or "the model has none"
    if name is not None:
        linear = {key: module for key, module in linear.items() if f".{key}".endswith(f".{name}")}
        if len(linear) != 1:
            raise ConfigError(must("head", f"the name of one linear layer ({known})", name))
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda m, args, out, key=key: outputs.__setitem__(key, out))
        for key, module in linear.items()
    ]
    try:
        with torch.no_grad():
            logits = model(x.clone())
    finally:
        for hook in hooks:
            hook.remove()
    made = [key for key, out in outputs.items() if _same(out, logits)]
    if not made:
        rule = "a last torch.nn.Linear whose output is the logits (B, C)"
        raise ConfigError(must("head", rule, name, f"end the model in one; linear layers it has: {known}"))
    return linear[made[-1]]


def _same(out: Tensor, logits: object) -> bool:
    """Whether a layer's output is the logits (B, C); a diverged model's NaN still are."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or out.shape != logits.shape:
        return False
    return torch.equal(out.nan_to_num(), logits.nan_to_num())


class Tap:
    """Holds what last went into a layer."""

    def __init__(self):
        self.features: Tensor | None = None


@contextlib.contextmanager
def tapped(head: nn.Linear) -> Iterator[Tap]:
    """Catch the head's input, the features (B, D) in float32 or wider, at each forward pass that is `uncompiled`."""
    tap = Tap()

    def catch(module: nn.Module, args: tuple) -> None:
        tap.features = args[0].detach().to(torch.promote_types(args[0].dtype, torch.float32))

    hook = head.register_forward_pre_hook(catch)
    try:
        yield tap
    finally:
        hook.remove()
