"""Any architecture that timm knows, by name, without its weights."""

from torch import nn

from advcore.errors import ConfigError, missing_package, must, nearest
from advcore.models.base import ModelSettings
from advcore.types import settings


@settings
class Timm(ModelSettings):
    """`timm:NAME` in a run file.

    Parameters
    ----------
    architecture : timm's name, such as "resnet26".
    """

    architecture: str

    def body(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        try:
            import timm
        except (ImportError, RuntimeError) as error:
            raise missing_package("timm", f"model.name: timm:{self.architecture}", "hf", error) from None
        known = timm.list_models()
        if self.architecture not in known:
            way_out = nearest(self.architecture, known)
            raise ConfigError(must("model.name", "timm:NAME with a name timm knows", self.architecture, way_out))
        return timm.create_model(self.architecture, pretrained=False, num_classes=num_classes, in_chans=shape[0])
