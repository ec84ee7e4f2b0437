"""Settings that all models share, and normalisation as a layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor, nn

from advcore.deprecation import forward_method
from advcore.errors import ConfigError, check, check_one_of, must, require
from advcore.kinds import find_type_problem
from advcore.models.head import Tap as Tap
from advcore.models.head import find_head as find_head
from advcore.models.head import tap_features as tap_features
from advcore.runtime.precision import FAMILY
from advcore.settings import setting, settings

_PerChannel = float | Sequence[float] | Tensor


@settings
class ModelSettings:
    """Settings that all models share.

    Parameters
    ----------
    normalize : "data": the first layer subtracts the training images' mean and divides by their deviation, per
        channel; "none": pixels go in as they are. Either way images, eps and attacks stay in [0, 1].
    head : name of the last linear layer; None finds it.
    mean, std : numbers in [0, 1] per channel, or one for all, that the first layer takes in place of the training
        images' own: those that trained weights were made with.
    weights : file of trained weights to begin with (.safetensors, .pt, .pth); None begins with random ones.
    new_head : begin with a random head beside those weights, which may be of another number of classes.

    parts : functions and classes that the network is made of; the last builds it. They use nothing but each other, what
        they import themselves, and torch, F, Tensor and nn as imported here: `advcore export` writes them down.
    fixed_arguments : arguments of the last part that are no settings.
    needs : packages that the parts import.
    family : name of a group of architectures that run alike, known to `advcore.runtime.cpu_defaults`; or None.
    example : settings with which the contract tests build it, where the defaults do not do.
    """

    normalize: str = "data"
    head: str | None = None
    mean: list[float] | None = setting(default=None, unit="pixels in [0, 1]")
    std: list[float] | None = setting(default=None, unit="pixels in [0, 1]")
    weights: str | None = None
    new_head: bool = False
    parts: ClassVar[tuple[Callable[..., object], ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[str | None] = None
    fixed_arguments: ClassVar[Mapping[str, object]] = {}
    example: ClassVar[Mapping[str, object]] = {}
    body = forward_method("advcore.models.base.ModelSettings.body", "build")

    def __post_init__(self) -> None:
        is_pair = (self.mean is None) == (self.std is None)
        are_means = all(0 <= number <= 1 for number in self.mean or ())
        are_deviations = all(0 < number <= 1 for number in self.std or ())
        require(
            check(are_means, "mean", "numbers in [0, 1]", self.mean, "divide those of 0-255 images by 255"),
            check(are_deviations, "std", "numbers in (0, 1]", self.std, "divide those of 0-255 images by 255"),
            check_one_of("normalize", self.normalize, ("data", "none")),
            check(is_pair, "mean, std", "both given or both null", f"{self.mean}, {self.std}"),
            check(self.mean is None or self.normalize == "data", "mean, normalize", "null, none", f"{self.mean}, none"),
            check(self.weights or not self.new_head, "new_head, weights", "both given or neither", "true, null"),
        )

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
    require(find_type_problem("model", nn.Module, model))
    shift = _read_numbers("mean", mean)
    scale = _read_numbers("std", std)
    way_out = "divide the mean and std of 0-255 images by 255"
    is_right = bool(((scale > 0) & (scale <= 1)).all()) and len(scale) in (1, len(shift))
    require(
        check(len(shift) and ((shift >= 0) & (shift <= 1)).all(), "mean", "numbers in [0, 1]", mean, way_out),
        check(is_right, "std", f"numbers in (0, 1], {len(shift)} as in mean or one", std, way_out),
    )
    device = next(chain(model.parameters(), model.buffers()), shift).device
    return nn.Sequential(Normalize(shift, scale).to(device), model)


def _read_numbers(name: str, values: _PerChannel) -> Tensor:
    """Return numbers as a vector. Raises ConfigError for anything else."""
    try:
        return torch.as_tensor(values, dtype=torch.float32).flatten()
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(must(name, "one number per channel, or one for all", values)) from None


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
