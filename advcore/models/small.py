"""A small convolutional network for small images."""

from typing import ClassVar

from torch import nn

from advcore.errors import check_at_least, require
from advcore.models.base import ModelSettings
from advcore.settings import setting, settings


def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """Build a 3 x 3 convolution with BatchNorm and ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def small_cnn(num_classes: int, channels: int, width: int) -> nn.Module:
    """Build the network of `SmallCNN`: images (B, channels, H, W) to logits (B, num_classes)."""
    return nn.Sequential(
        *block(channels, width, 1),
        *block(width, 2 * width, 2),
        *block(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * width, 8 * width),
        nn.ReLU(),
        nn.Linear(8 * width, num_classes),
    )


@settings
class SmallCNN(ModelSettings):
    """Three 3 x 3 convolutions of width, 2 width, 4 width channels, a hidden layer of 8 width, a linear head.

    The last two convolutions have stride 2; each is followed by BatchNorm and ReLU, all by average pooling to 2 x 2.

    Parameters
    ----------
    width : channels of the first convolution, 1 to 1024.
    """

    width: int = setting(default=16, unit="channels")
    parts: ClassVar = (block, small_cnn)
    family: ClassVar = "small_cnn"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(check_at_least("width", self.width, 1, most=1024))

    def list_arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, object]:
        return super().list_arguments(num_classes, shape) | {"width": self.width}
