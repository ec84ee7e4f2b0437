"""Any architecture that timm knows, by name, without its weights."""

from typing import ClassVar

from torch import nn

from advcore.errors import ConfigError, must, require_package, suggest_nearest
from advcore.models.base import ModelSettings
from advcore.settings import settings


def from_timm(architecture: str, num_classes: int, channels: int) -> nn.Module:
    """Build timm's architecture of that name, untrained, with logits (B, num_classes)."""
    import timm

    return timm.create_model(architecture, pretrained=False, num_classes=num_classes, in_chans=channels)


@settings
class Timm(ModelSettings):
    """`timm:NAME` in a run file.

    Parameters
    ----------
    architecture : timm's name, such as "resnet26".
    """

    architecture: str
    parts: ClassVar = (from_timm,)
    needs: ClassVar = ("timm",)
    example: ClassVar = {"architecture": "resnet10t"}

    def list_arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, object]:
        return {"architecture": self.architecture, "num_classes": num_classes, "channels": shape[0]}

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        with require_package("timm", f"model.name: timm:{self.architecture}", "hf"):
            import timm
        names = timm.list_models()
        if self.architecture not in names:
            nearest = suggest_nearest(self.architecture, names)
            raise ConfigError(must("model.name", "timm:NAME with a name timm knows", self.architecture, nearest))
        return super().build(num_classes, shape)
