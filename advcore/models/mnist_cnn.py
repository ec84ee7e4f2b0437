"""The two-convolution network of the MNIST examples, which Selective AT trains."""

from typing import ClassVar

from torch import nn

from advcore.errors import ConfigError, must
from advcore.models.base import ModelSettings
from advcore.settings import settings


def mnist_cnn(num_classes: int, channels: int, features: int) -> nn.Module:
    """Build the network of `MnistCNN`: images (B, channels, H, W) to logits (B, num_classes)."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(features, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


@settings
class MnistCNN(ModelSettings):
    """Two 3 x 3 convolutions of 32 and 64 channels without padding, 2 x 2 max-pooling, a hidden layer of 128.

    No BatchNorm and no dropout. Takes images of at least 6 x 6 pixels; of 28 x 28, the hidden layer has 9,216 inputs.
    Reference: the released code of Selective AT (arXiv 2512.22069), MNIST.
    """

    parts: ClassVar = (mnist_cnn,)

    def list_arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, object]:
        height, width = shape[1:]
        if min(height, width) < 6:
            raise ConfigError(must("model.name", "another network for images below 6 x 6 pixels", "mnist_cnn"))
        features = 64 * ((height - 4) // 2) * ((width - 4) // 2)
        return super().list_arguments(num_classes, shape) | {"features": features}
