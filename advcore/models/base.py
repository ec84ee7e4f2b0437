"""Settings that all models share, and normalisation as a layer."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor, nn

from advcore.deprecation import forward_method
from advcore.errors import ConfigError, SettingProblem, check, check_one_of, must, require
from advcore.kinds import find_type_problem
from advcore.models.head import Tap as Tap
from advcore.models.head import find_head as find_head
from advcore.models.head import tap_features as tap_features
from advcore.runtime.precision import FAMILY
from advcore.settings import setting, settings

_PerChannel = float | Sequence[float] | Tensor
LIBRARIES = ("timm", "torchvision")
"""Libraries that offer trained weights for their own networks."""


@dataclass(frozen=True)
class Pretrained:
    """Pretrained weights with a name: where they are stored, and the images that they were trained on.

    name : as `model.weights` gives it. repository : on the Hugging Face hub; "" for a file at `url`.
    mean, std : numbers per channel that the images were normalised by, and size : their side in pixels; none and 0
    where they are not known.
    """

    name: str
    repository: str = ""
    url: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: int = 0


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
    weights : trained weights to begin with: a file (.safetensors, .pt, .pth), "timm" or "torchvision" for those that
        the library has for its network, or "hub:owner/repository" on the Hugging Face hub; None begins with random
        ones.
    download : fetch the weights of a library or the hub into its cache if they are not there.
    new_head : start from a random head with those weights, which may have another number of classes.

    parts : functions and classes that the network is made of; the last builds it. They use nothing but each other, what
        they import themselves, and torch, F, Tensor and nn as imported here: `advcore export` writes them down.
    fixed_arguments : arguments of the last part that are not settings.
    needs : packages that the parts import.
    family : name of a group of architectures with common speed settings in `advcore.runtime.cpu_defaults`, or None.
    example : settings with which the contract tests build it, where the defaults do not do.
    library : of LIBRARIES, that whose weights the network can have; or None.
    """

    normalize: str = "data"
    head: str | None = None
    mean: list[float] | None = setting(default=None, unit="pixels in [0, 1]")
    std: list[float] | None = setting(default=None, unit="pixels in [0, 1]")
    weights: str | None = None
    download: bool = False
    new_head: bool = False
    parts: ClassVar[tuple[Callable[..., object], ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[str | None] = None
    fixed_arguments: ClassVar[Mapping[str, object]] = {}
    example: ClassVar[Mapping[str, object]] = {}
    library: ClassVar[str | None] = None
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
            self._find_source_problem(),
        )

    def _find_source_problem(self) -> SettingProblem | None:
        """Return the problem with weights that this network cannot have, or that cannot be downloaded."""
        weights = self.weights or ""
        if weights in LIBRARIES:
            rule = f"a file or hub:owner/repository for a network that is not of {weights}"
            return check(weights == self.library, "weights", rule, weights, f"choose model.name: {weights}:NAME")
        if weights.startswith("hub:"):
            is_name = re.fullmatch(r"hub:[\w-][\w.-]*/[\w-][\w.-]*", weights, re.ASCII)
            return check(is_name, "weights", "hub:owner/repository", weights)
        rule = f"true only with weights of {', '.join(LIBRARIES)} or hub:owner/repository"
        return check(not self.download, "download", rule, self.weights)

    def find_pretrained(self) -> Pretrained | None:
        """Return what is known of the weights that `weights` names; None for those of a file, and for random ones."""
        if self.weights in LIBRARIES:
            return self.find_in_library()
        if self.weights and self.weights.startswith("hub:"):
            return Pretrained(name=self.weights, repository=self.weights.removeprefix("hub:"))
        return None

    def find_in_library(self) -> Pretrained:
        """Return what the library offers for this network. Raises ConfigError where it offers nothing."""
        raise NotImplementedError(f"{type(self).__name__} names a library, but none of its weights")

    def choose_normalization(self, channels: int) -> tuple[Sequence[float] | None, Sequence[float] | None]:
        """Return the mean and deviation of the settings, or those that a library's weights were made with; or None.

        Weights that were made with another number of channels count with the means over theirs.
        """
        pretrained = self.find_pretrained()
        if self.mean is not None or pretrained is None or not pretrained.mean:
            return self.mean, self.std
        if len(pretrained.mean) == channels:
            return pretrained.mean, pretrained.std
        return [fmean(pretrained.mean)], [fmean(pretrained.std)]

    def fit_weights(self, state: Mapping[str, Tensor], shape: tuple[int, int, int]) -> dict[str, Tensor] | None:
        """Return trained weights as the network's library fits them to images (C, H, W); None where it cannot."""
        return None

    def list_arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, object]:
        """Return the keyword arguments, plain values, that the last of the parts is called with."""
        return {"num_classes": num_classes, "channels": shape[0], **self.fixed_arguments}

    def suggest_size(self, shape: tuple[int, int, int]) -> str:
        """Return how a network of one image size takes images (C, H, W), as the end of a message; "" for any other."""
        return ""

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
