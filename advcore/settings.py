"""The decorator of all classes of settings: they are frozen, and check the types of their values."""

import dataclasses
import functools
import numbers
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Protocol, cast, dataclass_transform, get_args, get_origin

from advcore.errors import ConfigError, SettingProblem, UserError, must

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class _Customisable(Protocol):
    """What pydantic and `dataclass` look for in a class."""

    __pydantic_config__: dict[str, object]
    __post_init__: "Callable[[DataclassInstance], None]"


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type) -> type:
    """Make `cls` a frozen, keyword-only dataclass that refuses unknown settings and values of the wrong type.

    Unknown settings are refused where the class is read from YAML. Types are checked whenever an object is made,
    before the class's own checks in `__post_init__`, which look at values: they never meet one of the wrong type.
    """
    hooks = cast(_Customisable, cls)
    hooks.__pydantic_config__ = {"extra": "forbid", "strict": True}
    check_values = getattr(cls, "__post_init__", _accept_values)

    def check_settings(self: "DataclassInstance") -> None:
        type_problems = _find_type_problems(self)
        if not type_problems:
            check_values(self)
            return
        value_problems = _find_value_problems(self, check_values, type_problems)
        raise ConfigError(*value_problems, *type_problems.values())

    hooks.__post_init__ = check_settings
    return dataclass(frozen=True, kw_only=True)(cls)


def _accept_values(self: object) -> None:
    """Check nothing, for a class without checks of its own."""


def _find_value_problems(
    instance: "DataclassInstance", check_values: Callable[[object], None], wrong: Mapping[str, object]
) -> list[SettingProblem]:
    """Return what the class's own checks say about the settings that are not `wrong`.

    They look at a stand-in, in which each wrong setting has its default, or what is empty or 0 of its type.
    """
    defaults = {field.name: _find_default(field) for field in dataclasses.fields(instance) if field.name in wrong}
    stand_in = object.__new__(type(instance))
    vars(stand_in).update(vars(instance) | defaults)
    try:
        check_values(stand_in)
    except UserError as error:
        return [problem for problem in error.problems if problem.settings.isdisjoint(wrong)]
    return []


def is_required(field: dataclasses.Field) -> bool:
    """Return whether a setting has no default."""
    return field.default is MISSING and field.default_factory is MISSING


def _find_default(field: dataclasses.Field) -> object:
    """Return a setting's default; without one, what is empty or 0 of its type."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    if field.default is not MISSING:
        return field.default
    plain = _list_members(field.type)[0]
    return cast(type, get_origin(plain) or plain)()


_PLAIN_TYPES: dict[object, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"),
    str: ((str, os.PathLike), "text"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    list: ((list, tuple), "a list"),
    dict: (dict, "a mapping"),
}
"""The classes of the values that a setting of a plain type accepts, and how a message describes them."""


def _find_type_problems(instance: "DataclassInstance") -> dict[str, SettingProblem]:
    """Return {setting: problem} for the settings whose value is not of their type."""
    values = vars(instance)
    unusual = [
        (setting, kind) for setting, kind, usual in _list_fields(type(instance)) if type(values[setting]) not in usual
    ]
    problems = {setting: _find_type_problem(setting, kind, values[setting]) for setting, kind in unusual}
    return {setting: problem for setting, problem in problems.items() if problem}


@functools.cache
def _list_fields(cls: "type[DataclassInstance]") -> list[tuple[str, object, tuple[type, ...]]]:
    """List name and type of each setting, and the classes of values that need no closer look.

    Kept for each class: objects with settings are made often, and nearly all have values of the usual classes.
    """
    fields = []
    for entry in dataclasses.fields(cls):
        usual = [kind for kind in _list_members(entry.type) if kind in (bool, int, float, str, NoneType)]
        if float in usual:
            usual.append(int)
        fields.append((entry.name, entry.type, tuple(usual)))
    return fields


def _list_members(kind: object) -> tuple[object, ...]:
    """Return the members of a union; of any other type, the type alone."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _find_type_problem(setting: str, kind: object, value: object) -> SettingProblem | None:
    """Return the problem with a value that is not of its setting's type, or None.

    Plain types are checked, and lists and mappings of plain types; each may be optional. Other types are not.
    """
    members = _list_members(kind)
    kinds = [member for member in members if member is not NoneType]
    if len(kinds) != 1 or (value is None and NoneType in members):
        return None
    plain = get_origin(kinds[0]) or kinds[0]
    if plain not in _PLAIN_TYPES:
        return None
    accepted, rule = _PLAIN_TYPES[plain]
    is_misplaced_bool = isinstance(value, bool) and plain is not bool  # which Python takes for an int
    if not isinstance(value, accepted) or is_misplaced_bool:
        return must(setting, rule, value)
    type_arguments = get_args(kinds[0])
    if not type_arguments or not isinstance(value, (list, tuple, dict)):
        return None
    entry_kind = type_arguments[-1]  # of a mapping, the type of its values
    entries: Iterable[tuple[object, object]] = value.items() if isinstance(value, dict) else enumerate(value)
    problems = (_find_type_problem(f"{setting}.{key}", entry_kind, entry) for key, entry in entries)
    return next(filter(None, problems), None)
