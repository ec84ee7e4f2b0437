"""What a setting or an argument accepts by its annotated type, and the error for anything else.

Checked are numbers, texts, lists and mappings; functions, by how many arguments they take; and objects, since one of
another library may come. A number or list of numpy or torch counts as Python's own. An object of another class is
accepted if it has what the annotated class asks for, as a plug-in's may.
"""

import dataclasses
import functools
import inspect
import math
import numbers
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from types import NoneType, UnionType
from typing import NamedTuple, TypeVar, cast, get_args, get_origin

from advcore.errors import SettingProblem, format_count, format_value, must, require
from advcore.suggestions import simplify_name

Function = TypeVar("Function", bound=Callable)


class PlainType(NamedTuple):
    """What a setting of a plain type accepts: classes of values, and their description; and a stand-in for others."""

    classes: type | tuple[type, ...]
    rule: str
    stand_in: object


PLAIN_TYPES: dict[object, PlainType] = {
    bool: PlainType(bool, "true or false", stand_in=False),
    str: PlainType((str, os.PathLike), "text", stand_in=""),
    int: PlainType(numbers.Integral, "a whole number", stand_in=math.nan),
    float: PlainType(numbers.Real, "a number", stand_in=math.nan),
    list: PlainType((list, tuple), "a list", stand_in=()),
    dict: PlainType(dict, "a mapping", stand_in={}),
}
_LONG = 100  # characters above which an object is named by its class alone
_MANY = 8  # entries of a list, likewise: to write out a data set takes minutes
_WAYS_OUT = {
    "seed": "all random numbers are named by it, and none come from a generator",
    "source": "advcore.data.source.as_source(dataset, device) makes one",
    "stream": "such as Stream(seed=0, purpose='evaluation')",
    "generator": "such as Stream(seed=0, purpose='attack').at(indices)",
}


def accept_arguments(function: Function) -> Function:
    """Decorate a function so that its arguments are checked by their annotated types before anything else is done.

    It raises ConfigError with all problems at once. Where a sequence of objects is annotated, one object or anything
    that yields some is accepted. Mappings, unions with plain types and types that are written as text are not checked.
    """
    signature = inspect.signature(function)
    kinds = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if parameter.annotation is not parameter.empty
    }

    @functools.wraps(function)
    def check_and_call(*arguments: object, **keywords: object) -> object:
        bound = signature.bind(*arguments, **keywords)
        problems = []
        for name, value in bound.arguments.items():
            kind = kinds.get(name, object)
            if get_origin(strip_none(kind)) is not dict:
                bound.arguments[name] = convert(kind, value)
                problems.append(find_type_problem(name, kind, bound.arguments[name]))
        require(*problems)
        return function(*bound.args, **bound.kwargs)

    return cast(Function, check_and_call)


def list_members(kind: object) -> tuple[object, ...]:
    """Return the members of a union that is written with "|"; of any other type, the type alone."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def list_object_classes(kind: object) -> list[type]:
    """Return the classes of objects that a type allows, None aside; none for a type that allows anything else."""
    members = [member for member in list_members(kind) if member is not NoneType]
    if all(isinstance(member, type) and member not in PLAIN_TYPES for member in members):
        return cast(list[type], members)
    return []


def strip_none(kind: object) -> object:
    """Return T of a type `T | None`; any other type, a union of several with None too, as it is."""
    kinds = [member for member in list_members(kind) if member is not NoneType]
    return kinds[0] if len(kinds) == 1 else kind


def convert(kind: object, value: object) -> object:
    """Return what the type asks for where the value means just that; any other value as it is.

    Python's own number or list for one of numpy or torch, a Path for a text, and a list of objects for one object.
    """
    kind = strip_none(kind)
    if get_origin(kind) is Sequence:
        return _convert_to_list(get_args(kind)[0], value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    plain = PLAIN_TYPES.get(get_origin(kind) or kind)
    if plain is None:
        return _build_named(kind, value)
    if hasattr(value, "shape") and hasattr(value, "tolist"):
        return value.tolist()
    if plain.classes is numbers.Real and isinstance(value, numbers.Rational) and not isinstance(value, int):
        return float(value)
    if not isinstance(value, (list, tuple)) or not get_args(kind):
        return value
    entries = [convert(get_args(kind)[-1], entry) for entry in value]
    if isinstance(value, tuple):
        return tuple(entries)
    return entries


def _build_named(kind: object, value: object) -> object:
    """Return an object for a name that the tables of the kind's package have, if it needs no settings.

    Any other value is returned as it is.
    """
    classes = list_object_classes(kind)
    are_settings = all(kind.__module__.startswith("advcore.") and _list_interface(kind) for kind in classes)
    if not isinstance(value, str) or not classes or not are_settings:
        return value
    entry = _list_examples(classes).get(value)
    if entry is None or any(field.default is field.default_factory for field in dataclasses.fields(entry)):
        return value
    return entry()


def _convert_to_list(kind: object, value: object) -> object:
    if isinstance(value, (list, tuple)):
        return value
    if find_type_problem("", kind, value) is None:
        return (value,)
    return tuple(value) if isinstance(value, Iterator) else value


def find_type_problem(setting: str, kind: object, value: object) -> SettingProblem | None:
    """Return the first problem with a value that is not of its setting's type, or None.

    Plain types are checked, lists of them, mappings to them, functions, classes and sequences of objects of these; each
    may be optional. Other types, unions with plain types, and the keys of mappings are not.
    """
    if value is None and NoneType in list_members(kind):
        return None
    classes = list_object_classes(kind)
    if classes:
        return _find_class_problem(setting, classes, value)
    kind = strip_none(kind)
    if get_origin(kind) is Callable:
        return _find_function_problem(setting, get_args(kind)[0], value)
    if get_origin(kind) is Sequence and not isinstance(value, (list, tuple)):
        return find_type_problem(setting, get_args(kind)[0], value)
    plain = PLAIN_TYPES.get(get_origin(kind) or kind)
    if plain is not None:
        is_misplaced_bool = isinstance(value, bool) and plain.classes is not bool  # which Python takes for an int
        if not isinstance(value, plain.classes) or is_misplaced_bool:
            return must(setting, plain.rule, value, _WAYS_OUT.get(setting, ""))
    elif get_origin(kind) is not Sequence:
        return None
    type_arguments = get_args(kind)
    if not type_arguments or not isinstance(value, (list, tuple, dict)):
        return None
    entry_kind = type_arguments[-1]  # of a mapping, the type of its values
    entries: Iterable[tuple[object, object]] = value.items() if isinstance(value, dict) else enumerate(value)
    problems = (find_type_problem(f"{setting}.{key}", entry_kind, entry) for key, entry in entries)
    return next(filter(None, problems), None)


def _find_function_problem(setting: str, arguments: object, value: object) -> SettingProblem | None:
    """Return the problem unless the value is a function of that many arguments, or None."""
    count = 0
    if isinstance(arguments, list):
        count = len(arguments)
    try:
        if callable(value):
            inspect.signature(getattr(value, "forward", value)).bind(*range(count))  # a module's own call takes all
            return None
    except ValueError:  # some builtin functions do not say what they take
        return None
    except TypeError:
        pass
    return must(setting, f"a function of {format_count(count, 'argument')}", value)


def _find_class_problem(setting: str, classes: Sequence[type], value: object) -> SettingProblem | None:
    """Return the problem with what is neither of one of the classes nor has what one of them asks for, or None."""
    if any(_is_of(kind, type(value)) for kind in classes):
        return None
    way_out = _WAYS_OUT.get(setting, "")
    if isinstance(value, type):
        if any(_is_of(kind, value) for kind in classes):
            way_out = "that is a class: create an instance"
    elif any(_is_alike(kind, value) for kind in classes):
        return None
    return SettingProblem(setting, f"must be {_describe_classes(classes, value)}", _describe_value(value), way_out)


def _describe_value(value: object) -> str:
    """Write a value in a few words: as settings show it, or by its class where that is long."""
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, Sized) and not isinstance(value, (str, type)) and len(value) > _MANY:
        return name
    text = format_value(value)
    if len(text) > _LONG or "\n" in text:
        return name
    return text


def _is_protocol(kind: type) -> bool:
    return getattr(kind, "_is_protocol", False)


def _is_of(kind: type, other: type) -> bool:
    """Return whether a class is `kind`, derives from it, or has what that protocol asks for."""
    if _is_protocol(kind):
        return all(hasattr(other, name) for name in _list_interface(kind))
    return issubclass(other, kind)


def _is_alike(kind: type, value: object) -> bool:
    """Return whether an object has what one of the class must have; nothing of it is called."""
    missing = object()
    interface = _list_interface(kind)
    return bool(interface) and all(inspect.getattr_static(value, name, missing) is not missing for name in interface)


@functools.cache
def _list_interface(kind: type) -> frozenset[str]:
    """List what an object of any other class must have: what `hooks` names, else public methods and a call.

    Fields without a default count too, and all attributes of a protocol.
    """
    if hasattr(kind, "hooks"):
        return frozenset(kind.hooks)
    names = {name for name, member in vars(kind).items() if callable(member) or isinstance(member, property)}
    if _is_protocol(kind):
        names |= set(kind.__annotations__)
    elif dataclasses.is_dataclass(kind):
        names |= {field.name for field in dataclasses.fields(kind) if field.default is field.default_factory}
    return frozenset(name for name in names if name == "__call__" or not name.startswith("_"))


def _describe_classes(classes: Sequence[type], value: object) -> str:
    """Say what is expected, with an example: the class whose name is most like the value's, of the package's tables."""
    examples = _list_examples(classes)
    kind = classes[0]
    rule = f"one of {', '.join(entry.__name__ for entry in classes)}"
    if len(classes) == 1:
        if not examples:
            return f"an object of the class {_find_public_name(kind)}"
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        rule = f"{article} {kind.__name__.lower()}"
    called = str(getattr(value, "__name__", type(value).__name__))
    if isinstance(value, str):
        called = value
    wanted = simplify_name(called)
    alike = [entry for name, entry in examples.items() if wanted in (simplify_name(name), entry.__name__.lower())]
    example = next(iter([*alike, *examples.values(), kind]))
    return f"{rule}, such as {_find_public_name(example)}(...)"


def _list_examples(classes: Sequence[type]) -> dict[str, type]:
    """Return the classes that are accepted, by their names in the tables of the first one's package."""
    package = sys.modules[".".join(classes[0].__module__.split(".")[:2])]
    tables = [table for name, table in vars(package).items() if name.isupper() and isinstance(table, dict)]
    entries = {name: entry for table in tables for name, entry in table.items() if isinstance(entry, type)}
    return {name: entry for name, entry in entries.items() if any(_is_of(kind, entry) for kind in classes)}


def _find_public_name(kind: type) -> str:
    """Return the dotted name of a class in the outermost package that has it, below the top one."""
    parts = kind.__module__.split(".")
    places = [".".join(parts[:depth]) for depth in range(2, len(parts))]
    homes = [place for place in places if hasattr(sys.modules[place], kind.__name__)]
    return f"{[*homes, kind.__module__][0]}.{kind.__name__}"
