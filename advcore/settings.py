"""The decorator of all classes of settings: they are frozen, and check the types of their values."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, Protocol, cast, dataclass_transform, get_origin

from advcore.errors import ConfigError, SettingProblem, UserError
from advcore.kinds import PLAIN_TYPES, convert, find_type_problem, list_members, strip_none
from advcore.pixels import write_value

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class _Customisable(Protocol):
    """What pydantic and `dataclass` look for in a class."""

    __pydantic_config__: dict[str, object]
    __post_init__: "Callable[[DataclassInstance], None]"
    __repr__: Callable[..., str]


_LONGEST = 200  # characters of a repr, above which settings that are objects are named by their class alone


class _Shortened(Protocol):
    """A class of settings with shorthand for some of them."""

    def _expand(self, *shorthand: object) -> dict[str, object]: ...


def setting(*, unit: str, default: Any = dataclasses.MISSING) -> Any:
    """Declare a setting that holds a number, with its unit: "epochs", "share", "pixels".

    The unit is in the field's metadata, from where the page of all settings takes it.
    """
    return dataclasses.field(default=default, metadata={"unit": unit})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
def settings(cls: type) -> type:
    """Make `cls` a frozen, keyword-only dataclass that refuses unknown settings and values of the wrong type.

    Unknown settings are refused where the class is read from YAML. Types are checked whenever an object is made
    (`advcore.kinds`), and so are values, by the class's own `__post_init__`: in place of a value of the wrong type it
    sees NaN, False or something empty, or None for an object. Making an object raises ConfigError with all problems
    at once. `repr` shows what differs from the defaults. Fields that are an `InitVar` are shorthand for settings, which
    the class's `_expand` returns by name.
    """
    hooks = cast(_Customisable, cls)
    hooks.__pydantic_config__ = {"extra": "forbid", "strict": True}
    check_values = getattr(cls, "__post_init__", _accept_values)

    def check_settings(self: "DataclassInstance", *shorthand: object) -> None:
        if shorthand:
            vars(self).update(cast(_Shortened, self)._expand(*shorthand))
        type_problems = _find_type_problems(self)
        if not type_problems:
            check_values(self)
            return
        problems = _find_value_problems(self, check_values, type_problems)
        reported = {setting for problem in problems for setting in problem.settings}
        raise ConfigError(*problems, *(type_problems[name] for name in type_problems if name not in reported))

    hooks.__post_init__ = check_settings
    if "__repr__" not in vars(cls):
        hooks.__repr__ = write_changes
    return dataclass(frozen=True, kw_only=True, repr=False)(cls)


def write_changes(instance: "DataclassInstance") -> str:
    """Return the class and the settings that differ from their defaults, in one line, cut above 200 characters."""
    changes = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if field.repr and (is_required(field) or value != _get_default(field)):
            changes[field.name] = value
    text = _write_call(instance, {name: write_value(value) for name, value in changes.items()})
    if len(text) <= _LONGEST:
        return text
    return _write_call(instance, {name: _write_briefly(value) for name, value in changes.items()})


def write_in_full(value: object) -> str:
    """Return all settings of an object, defaults too, for a hash of what a result depends on."""
    if isinstance(value, list):
        return f"[{', '.join(map(write_in_full, value))}]"
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value)
    fields = [field.name for field in dataclasses.fields(value) if field.repr]
    return _write_call(value, {name: write_in_full(getattr(value, name)) for name in fields})


def _write_call(instance: object, values: Mapping[str, str]) -> str:
    settings = ", ".join(f"{name}={text}" for name, text in values.items())
    return f"{type(instance).__qualname__}({settings})"


def _write_briefly(value: object) -> str:
    text = write_value(value)
    if dataclasses.is_dataclass(value) and not text.endswith("()"):
        return f"{type(value).__qualname__}(...)"
    if len(text) > _LONGEST // 4:
        return f"{type(value).__qualname__} of {len(text)} characters"
    return text


def _get_default(field: dataclasses.Field) -> object:
    if callable(field.default_factory):
        return field.default_factory()
    return field.default


def _accept_values(self: object) -> None:
    """Check nothing, for a class without its own checks."""


def _find_value_problems(
    instance: "DataclassInstance", check_values: Callable[[object], None], wrong: Mapping[str, SettingProblem]
) -> list[SettingProblem]:
    """Return the problems that a class's own checks find in an object, some of whose values have the wrong type.

    wrong : {setting: problem} for these. The checks look at a copy in which each of them is NaN, False, empty or None:
    that can be compared, iterated and searched like a right value, but NaN is in no range and "" in no list of words. A
    problem with such a setting alone names the value that was given; one with such a setting and others is left out.
    """
    kinds = {field.name: strip_none(field.type) for field in dataclasses.fields(instance) if field.name in wrong}
    plain = {name: PLAIN_TYPES.get(get_origin(kind) or kind) for name, kind in kinds.items()}
    values = {name: getattr(kind, "stand_in", None) for name, kind in plain.items()}
    stand_in = object.__new__(type(instance))
    vars(stand_in).update(vars(instance) | values)
    problems = []
    try:
        check_values(stand_in)
    except UserError as error:
        for problem in error.problems:
            if problem.settings.isdisjoint(wrong):
                problems.append(problem)
            elif len(problem.settings) == 1 and all(plain[name] for name in problem.settings):
                problems.append(replace(problem, got=wrong[problem.settings.pop()].got))
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError):
        pass  # a check that calculates with a stand-in, or calls it: the wrong types are reported without it
    return problems


def is_required(field: dataclasses.Field) -> bool:
    """Return whether a setting has no default."""
    return field.default is MISSING and field.default_factory is MISSING


def _find_type_problems(instance: "DataclassInstance") -> dict[str, SettingProblem]:
    """Return {setting: problem} for the settings whose value is not of their type, and convert equivalent ones."""
    values = vars(instance)
    problems = {}
    for setting, kind, usual in _list_fields(type(instance)):
        if type(values[setting]) not in usual:
            values[setting] = convert(kind, values[setting])
            problems[setting] = find_type_problem(setting, kind, values[setting])
    return {setting: problem for setting, problem in problems.items() if problem}


@functools.cache
def _list_fields(cls: "type[DataclassInstance]") -> list[tuple[str, object, tuple[type, ...]]]:
    """List name and type of each setting, and the classes of values that need no closer look.

    Kept for each class: objects with settings are made often, and nearly all have values of the usual classes.
    """
    fields = []
    for entry in dataclasses.fields(cls):
        usual = [kind for kind in list_members(entry.type) if kind in (bool, int, float, str, NoneType)]
        if float in usual:
            usual.append(int)
        fields.append((entry.name, entry.type, tuple(usual)))
    return fields
