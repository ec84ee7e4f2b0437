"""A small convolutional network for small images."""

from torch import nn

from advcore.errors import at_least, require
from advcore.models.base import ModelSettings
from advcore.types import settings


@settings
class SmallCNN(ModelSettings):
    """Three 3 x 3 convolutions of width, 2 width, 4 width channels, a hidden layer of 8 width, a linear head.

    The last two convolutions have stride 2; each is followed by BatchNorm and ReLU, all by average pooling to 2 x 2.

    Parameters
    ----------
    width : channels of the first convolution, 1 to 1024.
    """

    width: int = 16

    def __post_init__(self):
        super().__post_init__()
        require(at_least("width", self.width, 1, most=1024))

    def body(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        w = self.width
        return nn.Sequential(
            *_block(shape[0], w, 1),
            *_block(w, 2 * w, 2),
            *_block(2 * w, 4 * w, 2),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * w, 8 * w),
            nn.ReLU(),
            nn.Linear(8 * w, num_classes),
        )


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
