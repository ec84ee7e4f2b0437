"""Any classification architecture that torchvision has, by name, with torchvision's weights for it."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from advcore.models.base import Pretrained
from advcore.models.library import LibraryModel, describe_size
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


def find_weights(architecture: str) -> Pretrained:
    """Return the weights that torchvision knows for NAME or NAME.WEIGHTS; for NAME, those that it recommends."""
    from torchvision import models

    name, _, tag = architecture.partition(".")
    known = models.get_model_weights(name)
    weights = known[tag or "DEFAULT"]
    images = weights.transforms()
    facts = {"mean": tuple(images.mean), "std": tuple(images.std), "size": images.crop_size[0]}
    return Pretrained(name=f"{name}.{weights.name}", url=weights.url, **facts)


def sum_colours(state: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Return weights whose first convolution takes grey images, where that is what there is: summed over colours."""
    name, first = next(((name, value) for name, value in state.items() if value.ndim == 4), ("", torch.zeros(0, 0)))
    if channels != 1 or first.shape[1] != 3:
        return dict(state)
    return {**state, name: first.sum(1, keepdim=True)}


@settings
class Torchvision(LibraryModel):
    """`torchvision:NAME` in a run file, or torchvision:NAME.IMAGENET1K_V1 with the name of its weights."""

    parts: ClassVar = (from_torchvision,)
    needs: ClassVar = ("torchvision",)
    library: ClassVar = "torchvision"
    tag_rule: ClassVar = "torchvision:NAME.WEIGHTS with weights torchvision knows"
    example: ClassVar = {"architecture": "resnet18"}
    reserved: ClassVar = frozenset(("name", "num_classes", "weights", "progress", "pretrained"))

    def list_architectures(self) -> list[str]:
        from torchvision import models

        return models.list_models(module=models)

    def list_tags(self, architecture: str) -> list[str]:
        from torchvision import models

        return [weights.name for weights in models.get_model_weights(architecture)]

    def list_arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, object]:
        return super().list_arguments(num_classes, shape) | {"options": self._complete_options()}

    def _complete_options(self) -> dict[str, object]:
        """Return the options with those that torchvision sets where it loads trained weights.

        Those of GoogLeNet and Inception are for pixels in [-1, 1], which the network makes of those normalised by mean
        and std. Their further heads are for training from random weights.
        """
        if self.weights == "torchvision" and self.architecture.partition(".")[0] in ("googlenet", "inception_v3"):
            return {"transform_input": True, "aux_logits": False, "init_weights": False, **self.options}
        return self.options

    def suggest_size(self, shape: tuple[int, int, int]) -> str:
        if not self.architecture.startswith("vit_"):
            return ""
        return describe_size("image_size", shape[-1], find_weights(self.architecture).size)

    def find_in_library(self) -> Pretrained:
        return find_weights(self.architecture)

    def fit_weights(self, state: Mapping[str, Tensor], shape: tuple[int, int, int]) -> dict[str, Tensor] | None:
        """Return trained weights under current names, for images of this network's size and number of channels.

        DenseNets had other names when theirs were saved; the embeddings of ViTs' positions are interpolated.
        """
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name): state[name] for name in state}
        side = self.options.get("image_size")
        if isinstance(side, int) and "encoder.pos_embedding" in state:
            patch = state["conv_proj.weight"].shape[-1]
            state = interpolate_embeddings(side, patch, OrderedDict(state))
        if self._complete_options().get("aux_logits") is False:
            state = {name: value for name, value in state.items() if not name.lower().startswith("aux")}
        return sum_colours(state, shape[0])
