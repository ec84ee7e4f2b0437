"""Any architecture that timm knows, by name, without its weights."""

from typing import ClassVar

from torch import nn

from advcore.errors import ConfigError, must, require_package, suggest_nearest
from advcore.models.library import LibraryModel
from advcore.settings import settings


def from_timm(architecture: str, num_classes: int, channels: int, options: dict) -> nn.Module:
    """Build timm's architecture of that name, untrained, with logits (B, num_classes)."""
    import timm

    return timm.create_model(architecture, pretrained=False, num_classes=num_classes, in_chans=channels, **options)


@settings
class Timm(LibraryModel):
    """`timm:NAME` in a run file, such as timm:resnet26, or timm:resnet26.bt_in1k with the tag of its weights."""

    parts: ClassVar = (from_timm,)
    needs: ClassVar = ("timm",)
    example: ClassVar = {"architecture": "resnet10t"}
    reserved: ClassVar = frozenset(
        (
            *("model_name", "num_classes", "in_chans", "features_only", "scriptable", "exportable", "no_jit"),
            *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn"),
            *("pretrained_model_args", "checkpoint_path", "cache_dir"),
        )
    )

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        with require_package("timm", f"model.name: timm:{self.architecture}", "hf"):
            import timm
        names = timm.list_models()
        architecture, _, tag = self.architecture.partition(".")
        if architecture not in names:
            nearest = suggest_nearest(self.architecture, names)
            raise ConfigError(must("model.name", "timm:NAME with a name timm knows", self.architecture, nearest))
        tags = timm.list_pretrained(f"{architecture}.*")
        if tag and self.architecture not in tags:
            rule = f"timm:NAME with a tag timm knows ({', '.join(tags) or 'none'})"
            raise ConfigError(must("model.name", rule, self.architecture))
        return super().build(num_classes, shape)
