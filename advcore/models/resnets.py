"""ResNets: torchvision's with the usual stem for 32 x 32 images, PreActResNet and WideResNet."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advcore.errors import check, check_one_of, require, require_package
from advcore.models.base import ModelSettings, Pretrained
from advcore.models.torchvision import find_weights, sum_colours
from advcore.settings import settings

# Names of functions in torch.nn.functional.
ACTIVATIONS = ("relu", "silu", "gelu", "softplus")


def resnet(name: str, num_classes: int, channels: int, stem: str) -> nn.Module:
    """Build torchvision's ResNet of that name; stem "imagenet", or "cifar" (3 x 3, stride 1, no max-pool)."""
    from torchvision import models

    net = getattr(models, name)(num_classes=num_classes)
    if stem == "cifar":
        net.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        net.maxpool = nn.Identity()
    elif channels != 3:
        net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return net


@settings
class _ResNet(ModelSettings):
    """A torchvision ResNet.

    Parameters
    ----------
    stem : "cifar" (3 x 3, stride 1, no max-pool) or "imagenet" (7 x 7, stride 2, max-pool).
    """

    stem: str = "cifar"
    parts: ClassVar = (resnet,)
    family: ClassVar = "resnet"
    needs: ClassVar = ("torchvision",)
    torchvision: ClassVar[str]
    library: ClassVar = "torchvision"

    def __post_init__(self) -> None:
        super().__post_init__()
        are_fitting = self.weights != "torchvision" or self.stem == "imagenet"
        require(
            check_one_of("stem", self.stem, ("cifar", "imagenet")),
            check(are_fitting, "stem", "imagenet with weights: torchvision", self.stem),
        )

    def list_arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, object]:
        return {"name": self.torchvision, "num_classes": num_classes, "channels": shape[0], "stem": self.stem}

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        with require_package("torchvision", f"model.name: {self.torchvision}"):
            from torchvision import models  # noqa: F401 - its import is what can fail
        return super().build(num_classes, shape)

    def find_in_library(self) -> Pretrained:
        return find_weights(self.torchvision)

    def fit_weights(self, state: Mapping[str, Tensor], shape: tuple[int, int, int]) -> dict[str, Tensor] | None:
        return sum_colours(state, shape[0])


@settings
class ResNet18(_ResNet):
    """torchvision's ResNet-18 (He et al. 2016)."""

    torchvision: ClassVar[str] = "resnet18"


@settings
class ResNet50(_ResNet):
    """torchvision's ResNet-50 (He et al. 2016)."""

    torchvision: ClassVar[str] = "resnet50"


class PreActBlock(nn.Module):
    """BatchNorm, activation, convolution, twice, with a shortcut connection (He et al. 2016b, fig. 1b)."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str = "relu") -> None:
        super().__init__()
        self.activate = getattr(F, activation)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activate(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        return shortcut + self.conv2(self.activate(self.bn2(self.conv1(out))))


class PreActNet(nn.Module):
    """The network of PreActResNet-18 and of WideResNets, which differ in `stem`, `widths` and `depth`.

    A 3 x 3 stem of `stem` channels; for each of `widths` a group of `depth` pre-activation blocks, all groups but the
    first halving the image; BatchNorm, activation, average pooling, a linear head.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        *,
        stem: int,
        widths: tuple[int, ...],
        depth: int,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.activate = getattr(F, activation)
        self.stem = nn.Conv2d(channels, stem, 3, 1, 1, bias=False)
        blocks = []
        inputs = stem
        for group, width in enumerate(widths):
            for i in range(depth):
                halves = group > 0 and i == 0
                blocks.append(PreActBlock(inputs, width, 2 if halves else 1, activation))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        features = self.activate(self.bn(self.blocks(self.stem(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(features, 1), 1))


@settings
class _PreActNet(ModelSettings):
    """A pre-activation network.

    Parameters
    ----------
    activation : "relu", as published, "silu" (Swish), "gelu" or "softplus".
    """

    activation: str = "relu"
    parts: ClassVar = (PreActBlock, PreActNet)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(check_one_of("activation", self.activation, ACTIVATIONS))

    def list_arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, object]:
        return {**super().list_arguments(num_classes, shape), "activation": self.activation}


@settings
class PreActResNet18(_PreActNet):
    """PreActResNet-18 for 32 x 32 (He et al. 2016b), the field's usual variant with a final BatchNorm."""

    family: ClassVar = "preact_resnet"
    fixed_arguments: ClassVar = {"stem": 64, "widths": (64, 128, 256, 512), "depth": 2}


@settings
class WideResNet28x10(_PreActNet):
    """WideResNet-28-10 (Zagoruyko and Komodakis 2016, table 1), without dropout: (28 - 4) / 6 blocks in each group.

    With SiLU it is the network of Gowal et al. (2020, section 4.6), Rebuffi et al. (2021) and Wang et al. (2023).
    Differs: theirs pads a convolution of stride 2 on the right and below alone, its BatchNorm's running statistics move
    by 0.01 per step instead of 0.1, and its head's bias begins at 0.
    """

    family: ClassVar = "wide_resnet"
    fixed_arguments: ClassVar = {"stem": 16, "widths": (160, 320, 640), "depth": 4}


@settings
class WideResNet34x10(_PreActNet):
    """WideResNet-34-10 (Zagoruyko and Komodakis 2016, table 1), without dropout: (34 - 4) / 6 blocks in each group.

    Differs from the networks with SiLU of the literature as `WideResNet28x10` does.
    """

    family: ClassVar = "wide_resnet"
    fixed_arguments: ClassVar = {"stem": 16, "widths": (160, 320, 640), "depth": 5}
