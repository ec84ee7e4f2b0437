"""Networks of plug-ins as settings of a run file: each parameter of their constructor is a setting."""

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, get_args, get_origin

from torch import nn

from advcore.errors import ConfigError, check, must, require
from advcore.models.base import ModelSettings
from advcore.settings import settings

# What the data decide.
_OF_THE_DATA = ("num_classes", "channels", "shape")
_PLAIN = (bool, int, float, str, list, dict, type(None))


@settings
class OwnNetwork(ModelSettings):
    """A network of a plug-in; subclasses name what builds it, and have the parameters of that as fields."""

    factory: ClassVar[Callable[..., object]]

    def list_arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, object]:
        offered = dict(zip(_OF_THE_DATA, (num_classes, shape[0], shape), strict=True))
        shared = {field.name for field in dataclasses.fields(ModelSettings)}
        chosen = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        wanted = inspect.signature(type(self).factory).parameters
        return {name: value for name, value in (offered | chosen).items() if name in wanted and name not in shared}

    def find_factory(self) -> Callable[..., object]:
        """Return the class or function that builds the network."""
        return type(self).factory

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        network = type(self).factory(**self.list_arguments(num_classes, shape))
        if not isinstance(network, nn.Module):
            raise ConfigError(must("model.name", "a class or function that builds a torch.nn.Module", network))
        return network


def describe_network(name: str, factory: object) -> type[OwnNetwork]:
    """Return the class of settings of a network, under which run files name it.

    factory : a class or function that takes `num_classes`; the parameters that no data decide become settings, of the
        type that they are annotated with. Raises ConfigError for what no run file can call.
    """
    setting = f"register.model({name!r})"
    require(check(callable(factory), setting, "given a class or function that builds a network", factory))
    assert callable(factory)
    parameters = inspect.signature(factory).parameters
    _check_parameters(setting, factory, parameters)
    fields: dict = {"__annotations__": {}, "__module__": getattr(factory, "__module__", __name__)}
    for parameter in parameters.values():
        if parameter.name in _OF_THE_DATA or parameter.kind is parameter.VAR_KEYWORD:
            continue
        fields["__annotations__"][parameter.name] = _find_type(parameter.annotation)
        if parameter.default is not parameter.empty:
            fields[parameter.name] = _make_default(parameter.default)
    fields["__doc__"] = inspect.getdoc(factory) or f"The network {getattr(factory, '__name__', name)} of a plug-in."
    fields["factory"] = staticmethod(factory)
    return settings(type(getattr(factory, "__name__", name), (OwnNetwork,), fields))


def _check_parameters(setting: str, factory: object, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Raise ConfigError unless a run file can give the parameters, all by name."""
    signature = f"{getattr(factory, '__name__', factory)}({', '.join(parameters)})"
    rule = "given a network that takes num_classes"
    require(check("num_classes" in parameters, setting, rule, signature))
    unnamed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    by_position = [parameter.name for parameter in parameters.values() if parameter.kind in unnamed]
    require(check(not by_position, setting, "given a network whose parameters have names", signature))
    clashing = {field.name for field in dataclasses.fields(ModelSettings)} & parameters.keys()
    way_out = f"rename {', '.join(sorted(clashing))}: every model has a setting of that name"
    require(check(not clashing, setting, "given a network without parameters of advcore's", signature, way_out))


def _find_type(annotation: object) -> object:
    """Return a parameter's annotation where settings can check it; object for every other."""
    members = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    is_plain = all((get_origin(member) or member) in _PLAIN for member in members)
    return annotation if is_plain else object


def _make_default(value: object) -> object:
    """Return a default as a field of a dataclass takes it: lists and mappings are copied for each object."""
    if isinstance(value, (list, dict, set)):
        return dataclasses.field(default_factory=partial(type(value), value))
    return value
