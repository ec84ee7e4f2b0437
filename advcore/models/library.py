"""Architectures that another library builds by name, with options for its constructor."""

from dataclasses import field
from typing import ClassVar

from torch import nn

from advcore.errors import ConfigError, check, must, quote_library, require, require_package, suggest_nearest
from advcore.models.base import ModelSettings
from advcore.settings import settings


def describe_size(option: str, side: int, usual: int) -> str:
    """Return the end of a message: how a network of one image size takes images of another size, in pixels per side."""
    return f"; set model.options: {{{option}: {side}}}, or data.size: {usual} for a folder of images"


@settings
class LibraryModel(ModelSettings):
    """An architecture of another library.

    Parameters
    ----------
    architecture : the library's name for it, which may end in the tag of trained weights.
    options : keyword arguments of the library's constructor, such as {drop_path_rate: 0.1}.

    extra : of advcore, which brings the library; None for one that is always there.
    tag_rule : what a name with a tag must be, for messages.
    reserved : arguments of the constructor that no option may be: what the data and other settings decide, and what
        would read files or fetch them.
    """

    architecture: str
    options: dict[str, object] = field(default_factory=dict)
    extra: ClassVar[str | None] = None
    tag_rule: ClassVar[str]
    reserved: ClassVar[frozenset[str]]

    def __post_init__(self) -> None:
        super().__post_init__()
        taken = sorted(self.reserved & self.options.keys())
        way_out = "the data and the other settings of model decide them"
        require(check(not taken, "options", f"without {', '.join(taken)}", self.options, way_out))

    def list_arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, object]:
        arguments = {"architecture": self.architecture, "num_classes": num_classes, "channels": shape[0]}
        return arguments | {"options": self.options}

    def list_architectures(self) -> list[str]:
        """Return the names that the library knows."""
        raise NotImplementedError

    def list_tags(self, architecture: str) -> list[str]:
        """Return the tags of an architecture's weights, as messages list them: alone, or after its name."""
        raise NotImplementedError

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """Build the network. Raises ConfigError for a name, a tag or options that the library does not know."""
        with require_package(str(self.library), f"model.name: {self.library}:{self.architecture}", self.extra):
            names = self.list_architectures()
        architecture, _, tag = self.architecture.partition(".")
        if architecture not in names:
            rule = f"{self.library}:NAME with a name {self.library} knows"
            nearest = suggest_nearest(self.architecture, names)
            raise ConfigError(must("model.name", rule, self.architecture, nearest))
        tags = self.list_tags(architecture)
        if tag and tag not in tags and self.architecture not in tags:
            raise ConfigError(must("model.name", f"{self.tag_rule} ({', '.join(tags) or 'none'})", self.architecture))
        try:
            return super().build(num_classes, shape)
        except Exception as error:
            if not self.options:
                raise
            rule = f"options that {self.architecture} can be built with"
            raise ConfigError(must("model.options", rule, self.options, quote_library(error))) from None
