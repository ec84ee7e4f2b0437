"""AlexNet for 32 x 32 images, in whose activations PAT measures perceptual distance."""

from typing import ClassVar

from torch import Tensor, nn

from advcore.models.base import ModelSettings
from advcore.settings import settings


class Features(nn.Module):
    """Five convolutions with ReLU, for images (B, C, H, W) of about 32 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.AdaptiveMaxPool2d(2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


def make_hidden_layer(inputs: int) -> list[nn.Module]:
    """Build a linear layer with dropout before it and ReLU after it."""
    return [nn.Dropout(), nn.Linear(inputs, 4096), nn.ReLU()]


def alexnet_cifar(num_classes: int, channels: int) -> nn.Module:
    """Build AlexNet: images (B, channels, 32, 32) to logits (B, num_classes)."""
    return nn.Sequential(
        Features(channels),
        nn.Flatten(),
        *make_hidden_layer(1024),
        *make_hidden_layer(4096),
        nn.Linear(4096, num_classes),
    )


@settings
class AlexNetCIFAR(ModelSettings):
    """Five convolutions of 64, 192, 384, 256, 256 channels with ReLU, three max-poolings, hidden layers of 4096.

    For LPIPS after its five ReLUs: `layers: [features.1, features.4, features.7, features.9, features.11]`.
    Reference: Krizhevsky et al. 2012; sizes as in Laidlaw et al. 2021 (PAT) for CIFAR-10. Differs: pooling to
    2 x 2 before the hidden layers is adaptive, so that other sizes fit.
    """

    parts: ClassVar = (Features, make_hidden_layer, alexnet_cifar)
    family: ClassVar = "alexnet"
