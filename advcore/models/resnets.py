"""ResNets from torchvision with the stem the field uses on 32 x 32, and the two that torchvision lacks."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advcore.errors import missing_package, one_of, require
from advcore.models.base import ModelSettings
from advcore.types import settings

STEMS = ("cifar", "imagenet")


def resnet(name: str, num_classes: int, channels: int, stem: str) -> nn.Module:
    """torchvision's ResNet of that name; stem "imagenet", or "cifar" (3 x 3, stride 1, no max-pool)."""
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

    def __post_init__(self):
        super().__post_init__()
        require(one_of("stem", self.stem, STEMS))

    def arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"name": self.torchvision, "num_classes": num_classes, "channels": shape[0], "stem": self.stem}

    def body(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        try:
            from torchvision import models  # noqa: F401 - its import is what can fail
        except (ImportError, RuntimeError) as error:
            raise missing_package("torchvision", f"model.name: {self.torchvision}", None, error) from None
        return super().body(num_classes, shape)


@settings
class ResNet18(_ResNet):
    """torchvision's ResNet-18 (He et al. 2016)."""

    torchvision: ClassVar[str] = "resnet18"


@settings
class ResNet50(_ResNet):
    """torchvision's ResNet-50 (He et al. 2016)."""

    torchvision: ClassVar[str] = "resnet50"


class PreActBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice, and a shortcut (He et al. 2016b, fig. 1b)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(out)
        return kept + self.conv2(F.relu(self.bn2(self.conv1(out))))


class PreActNet(nn.Module):
    """A 3 x 3 stem, groups of pre-activation blocks that halve the image after the first, BatchNorm, ReLU,
    average pooling, a linear head. `widths` and `depth` tell PreActResNet-18 from WideResNets."""

    def __init__(self, num_classes: int, channels: int, *, stem: int, widths: tuple[int, ...], depth: int):
        super().__init__()
        self.stem = nn.Conv2d(channels, stem, 3, 1, 1, bias=False)
        blocks, inputs = [], stem
        for group, width in enumerate(widths):
            for i in range(depth):
                blocks.append(PreActBlock(inputs, width, 2 if group and not i else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        features = F.relu(self.bn(self.blocks(self.stem(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(features, 1), 1))


@settings
class PreActResNet18(ModelSettings):
    """PreActResNet-18 for 32 x 32 (He et al. 2016b), the field's usual variant with a final BatchNorm."""

    parts: ClassVar = (PreActBlock, PreActNet)
    family: ClassVar = "preact_resnet"

    def arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        own = {"stem": 64, "widths": (64, 128, 256, 512), "depth": 2}
        return {"num_classes": num_classes, "channels": shape[0]} | own


def _wide(depth: int, num_classes: int, channels: int) -> dict[str, Any]:
    """WRN-depth-10: (depth - 4) / 6 blocks in each of three groups."""
    shape = {"stem": 16, "widths": (160, 320, 640), "depth": (depth - 4) // 6}
    return {"num_classes": num_classes, "channels": channels} | shape


@settings
class WideResNet28x10(ModelSettings):
    """WideResNet-28-10 (Zagoruyko and Komodakis 2016, table 1), without dropout."""

    parts: ClassVar = (PreActBlock, PreActNet)
    family: ClassVar = "wide_resnet"

    def arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        return _wide(28, num_classes, shape[0])


@settings
class WideResNet34x10(ModelSettings):
    """WideResNet-34-10 (Zagoruyko and Komodakis 2016, table 1), without dropout."""

    parts: ClassVar = (PreActBlock, PreActNet)
    family: ClassVar = "wide_resnet"

    def arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        return _wide(34, num_classes, shape[0])
