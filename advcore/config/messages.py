"""Problems of a run file that pydantic finds, in our own words: path, rule, value, way out."""

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard, get_args, get_origin

from pydantic import Tag, ValidationError

from advcore.config.aliases import suggest_name, suggest_setting
from advcore.config.schema import RunConfig
from advcore.errors import UserError, format_value, must

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic_core import ErrorDetails

_LONGEST = 60  # characters of a key
# What a value must be, by the type of pydantic's error.
_RULES = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "none_required": "null",
    "dataclass_type": "a mapping of settings",
    "dict_type": "a mapping",
}


def describe_problems(error: ValidationError, raw: object) -> list[str]:
    """Return one line per problem of the settings `raw`, each once.

    Where settings of a section have the wrong type, pydantic does not run the section's own checks. Their problems are
    included, as far as they concern settings of the right type.
    """
    entries = error.errors(include_url=False)
    lines = [line for entry in entries for line in _describe_entry(entry)]
    return list(dict.fromkeys(lines + _run_skipped_checks(entries, raw)))


def _run_skipped_checks(entries: "Sequence[ErrorDetails]", raw: object) -> list[str]:
    """Return what the sections' own checks say about settings that have the right type beside settings that do not."""
    wrong: dict[tuple[str, ...], tuple[type | None, set[str]]] = {}
    for entry in entries:
        keys, owners = _locate(entry["loc"])
        for depth, owner in enumerate(owners):
            wrong.setdefault(tuple(keys[:depth]), (owner, set()))[1].add(keys[depth])
    lines = []
    for path, (cls, wrong_keys) in wrong.items():
        section = _value_at(raw, path)
        if cls is not None and isinstance(section, dict):
            lines += [".".join([*path, line]) for line in _check_section(cls, section, wrong_keys)]
    return lines


def _check_section(cls: type, section: dict, wrong: set[str]) -> list[str]:
    """Return the problems that `cls` finds in its settings, of those that are present and not `wrong`."""
    names = [field.name for field in dataclasses.fields(cls) if field.name in section or _is_required(field)]
    try:
        cls(**{name: section.get(name) for name in names})
    except UserError as error:
        sound = section.keys() & set(names) - wrong
        return [line for line in error.problems if re.split(r"\W", line)[0] in sound]
    except (TypeError, AttributeError, LookupError):  # a check across settings meets the wrong type
        pass
    return []


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value_at(raw: object, path: tuple[str, ...]) -> object:
    for key in path:
        if isinstance(raw, list):
            raw = raw[int(key)]
        else:
            assert isinstance(raw, dict), "pydantic says that there are settings inside"
            raw = raw.get(key)
    return raw


def _describe_entry(entry: "ErrorDetails") -> list[str]:
    """Return one of pydantic's errors as one line per problem: path, rule, value, way out."""
    keys, owners = _locate(entry["loc"])
    keys = [key if key.isprintable() and len(key) <= _LONGEST else format_value(key) for key in keys]
    path = ".".join(keys) or "the run file"
    got = entry["input"]
    match entry["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return [_describe_unknown(keys, owners[-1])]
        case "missing":
            return [f"{path} is missing; it has no default"]
        case "union_tag_invalid":
            names = re.findall(r"'([^']*)'", entry["ctx"]["expected_tags"])
            return [must(f"{path}.name", f"one of {', '.join(names)}", got["name"], suggest_name(got["name"], names))]
        case "union_tag_not_found":
            return [must(path, "a mapping with a name", got)]
        case "json_invalid":
            return [f"settings cannot be read: {entry['ctx']['error']}"]
        case "value_error":
            return [".".join([*keys, problem]) for problem in str(entry["ctx"]["error"]).split("\n")]
        case kind:
            return [must(path, _RULES.get(kind, entry["msg"].removeprefix("Input should be ")), got)]


def _describe_unknown(keys: Sequence[str], cls: type | None) -> str:
    *above, key = keys
    section = ".".join(above)
    names = [field.name for field in dataclasses.fields(cls)] if cls else []
    inside = section or "the run file"
    hint = suggest_setting(key, names, section) or f"{inside} has {', '.join(names) or 'none'}"
    return f"{'.'.join(keys)} is not a setting of {inside}; {hint}"


def _locate(loc: tuple) -> tuple[list[str], list[type | None]]:
    """Return the keys of pydantic's location `loc`, without its tags, and for each the class whose setting it is."""
    keys: list[str] = []
    owners: list[type | None] = []
    kind: object = RunConfig
    for part in loc:
        choices = _list_choices(kind)
        if part in choices:
            kind = choices[part]
            continue
        keys.append(str(part))
        if not _is_settings(kind):
            kind = next(iter(choices.values()), kind)
        if _is_settings(kind):
            owners.append(kind)
            kind = {field.name: field.type for field in dataclasses.fields(kind)}.get(part)
        else:
            owners.append(None)
            kind = [kind, *get_args(kind)][-1]
    return keys, owners


def _is_settings(kind: object) -> "TypeGuard[type[DataclassInstance]]":
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _list_choices(kind: object) -> dict[str, object]:
    """Return the classes that a type chooses from, by tag; the class of an optional section by its own name."""
    choices: dict[str, object] = {}
    for part in get_args(kind):
        tags = [extra.tag for extra in getattr(part, "__metadata__", ()) if isinstance(extra, Tag)]
        if tags:
            choices[tags[0]] = get_args(part)[0]
        elif _is_settings(part):
            choices[part.__name__] = part
        elif get_origin(kind) is not list:
            choices |= _list_choices(part)
    return choices
