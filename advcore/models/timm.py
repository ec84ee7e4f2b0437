"""Any architecture that timm has, by name, with timm's weights for it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from advcore.errors import ConfigError, must
from advcore.models.base import Pretrained
from advcore.models.library import LibraryModel, describe_size
from advcore.rng import preserve_random_state
from advcore.settings import settings

if TYPE_CHECKING:
    from timm.models import PretrainedCfg


def from_timm(architecture: str, num_classes: int, channels: int, options: dict) -> nn.Module:
    """Build timm's architecture of that name, untrained, with logits (B, num_classes)."""
    import timm

    return timm.create_model(architecture, pretrained=False, num_classes=num_classes, in_chans=channels, **options)


def read_facts(architecture: str) -> "PretrainedCfg":
    """Return what timm says about the weights for a name, or for a name and a tag; its defaults where it has none."""
    import timm
    from timm.models import PretrainedCfg

    return timm.get_pretrained_cfg(architecture) or PretrainedCfg()


@settings
class Timm(LibraryModel):
    """`timm:NAME` in a run file, such as timm:resnet26, or timm:resnet26.bt_in1k with the tag of its weights."""

    parts: ClassVar = (from_timm,)
    needs: ClassVar = ("timm",)
    library: ClassVar = "timm"
    extra: ClassVar = "hf"
    tag_rule: ClassVar = "timm:NAME with a tag timm knows"
    example: ClassVar = {"architecture": "resnet10t"}
    reserved: ClassVar = frozenset(
        (
            *("model_name", "num_classes", "in_chans", "features_only", "scriptable", "exportable", "no_jit"),
            *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn"),
            *("pretrained_model_args", "checkpoint_path", "cache_dir"),
        )
    )

    def list_architectures(self) -> list[str]:
        import timm

        return timm.list_models()

    def list_tags(self, architecture: str) -> list[str]:
        import timm

        return timm.list_pretrained(f"{architecture}.*")

    def suggest_size(self, shape: tuple[int, int, int]) -> str:
        facts = read_facts(self.architecture)
        if not facts.fixed_input_size:
            return ""
        return describe_size("img_size", shape[-1], facts.input_size[-1])

    def find_in_library(self) -> Pretrained:
        facts = read_facts(self.architecture)
        if not facts.hf_hub_id and not isinstance(facts.url, str):
            rule = "a file or hub:owner/repository for a network that timm has no weights for"
            raise ConfigError(must("model.weights", rule, self.weights))
        return Pretrained(
            name=f"{facts.architecture}.{facts.tag}",
            repository=facts.hf_hub_id or "",
            url=str(facts.url),
            mean=tuple(facts.mean),
            std=tuple(facts.std),
            size=facts.input_size[-1],
        )

    def fit_weights(self, state: Mapping[str, Tensor], shape: tuple[int, int, int]) -> dict[str, Tensor] | None:
        """Return trained weights as timm itself loads them.

        It renames those of older versions, interpolates embeddings of positions and patches for another size of images,
        and sums the first convolution's over colours for images of another number of channels. The head stays as it is.
        """
        import timm

        classifier = read_facts(self.architecture).classifier or ""
        if not isinstance(classifier, str):
            classifier = classifier[0]
        num_classes = len(state.get(f"{classifier}.weight", ()))
        source = {"state_dict": dict(state), "num_classes": num_classes}
        options: dict = {"pretrained": True, "pretrained_cfg_overlay": source, **self.options}
        try:
            with preserve_random_state():
                network = timm.create_model(self.architecture, num_classes=num_classes, in_chans=shape[0], **options)
        except Exception:  # whatever timm raises for weights of another network, whose names say more than its words
            return None
        return network.state_dict()
