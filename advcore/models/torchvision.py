"""Any architecture for classification that torchvision knows, by name, without its weights."""

from typing import ClassVar

import torch
from torch import nn

from advcore.errors import ConfigError, must, require_package, suggest_nearest
from advcore.models.library import LibraryModel
from advcore.settings import settings


def from_torchvision(architecture: str, num_classes: int, channels: int, options: dict) -> nn.Module:
    """Build torchvision's architecture of that name, untrained, with logits (B, num_classes)."""
    from torchvision import models

    net = models.get_model(architecture.partition(".")[0], num_classes=num_classes, **options)
    stem = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    if channels != stem.in_channels:
        stem.in_channels = channels
        stem.weight = nn.Parameter(torch.empty(stem.out_channels, channels, *stem.kernel_size))
        stem.reset_parameters()
    return net


@settings
class Torchvision(LibraryModel):
    """`torchvision:NAME` in a run file, or torchvision:NAME.IMAGENET1K_V1 with the name of its weights."""

    parts: ClassVar = (from_torchvision,)
    needs: ClassVar = ("torchvision",)
    example: ClassVar = {"architecture": "resnet18"}
    reserved: ClassVar = frozenset(("name", "num_classes", "weights", "progress", "pretrained"))

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        with require_package("torchvision", f"model.name: torchvision:{self.architecture}"):
            from torchvision import models
        names = models.list_models(module=models)
        architecture, _, tag = self.architecture.partition(".")
        if architecture not in names:
            nearest = suggest_nearest(self.architecture, names)
            rule = "torchvision:NAME with a name torchvision knows"
            raise ConfigError(must("model.name", rule, self.architecture, nearest))
        tags = [weights.name for weights in models.get_model_weights(architecture)]
        if tag and tag not in tags:
            rule = f"torchvision:NAME.WEIGHTS with weights torchvision knows ({', '.join(tags)})"
            raise ConfigError(must("model.name", rule, self.architecture))
        return super().build(num_classes, shape)
