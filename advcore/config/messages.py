"""Problems of a run file that pydantic finds, rephrased as path, rule, value and way out."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, get_args, get_origin

from pydantic import ValidationError

from advcore.config.aliases import list_sections, suggest_name, suggest_setting
from advcore.config.schema import ByName, RunConfig
from advcore.errors import SettingProblem, UserError, as_problem, format_value, must
from advcore.settings import is_required

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


def list_problems(error: ValidationError, raw: object) -> list[SettingProblem]:
    """Return the problems of the settings `raw`, each once.

    Where settings of a section have the wrong type, pydantic does not run the section's own checks. Their problems are
    included, as far as they concern settings of the right type.
    """
    entries = error.errors(include_url=False)
    problems = [problem for entry in entries for problem in _read_entry(entry)]
    return list(dict.fromkeys(problems + _run_skipped_checks(entries, raw)))


def _run_skipped_checks(entries: "Sequence[ErrorDetails]", raw: object) -> list[SettingProblem]:
    """Return what the sections' own checks say about settings of the right type, where others have the wrong type."""
    wrong: dict[tuple[str, ...], tuple[type | None, set[str]]] = {}
    for entry in entries:
        keys, owners, _ = _locate(entry["loc"])
        for depth, owner in enumerate(owners):
            wrong.setdefault(tuple(keys[:depth]), (owner, set()))[1].add(keys[depth])
    problems = []
    for path, (cls, wrong_keys) in wrong.items():
        section = _find_value(raw, path)
        if cls is not None and isinstance(section, dict):
            problems += [problem.inside(_as_place(path)) for problem in _check_section(cls, section, wrong_keys)]
    return problems


def _check_section(cls: type, section: Mapping, wrong: Collection[str]) -> list[SettingProblem]:
    """Return what the checks of `cls` say about the settings of a section that are given and not `wrong`.

    The sections inside it have not been built: they are left out, as what is wrong is.
    """
    fields = dataclasses.fields(cls)
    right = {
        field.name: section[field.name]
        for field in fields
        if field.name in section and field.name not in wrong and not any(list_sections(field.type))
    }
    missing = {field.name: None for field in fields if is_required(field)}
    try:
        cls(**missing | right)
    except UserError as error:
        return [problem for problem in error.problems if problem.settings <= right.keys()]
    return []


def _as_place(path: Iterable[str]) -> str:
    """Return a path as the prefix of a setting: "attack."; "" for the top of the file."""
    return "".join(f"{key}." for key in path)


def _find_value(raw: object, path: Iterable[str]) -> object:
    """Return the value at a path of the settings, as far as the path leads."""
    for key in path:
        if isinstance(raw, (list, tuple)):
            raw = raw[int(key)]
        elif isinstance(raw, dict):
            raw = raw.get(key)
    return raw


def _read_entry(entry: "ErrorDetails") -> list[SettingProblem]:
    """Return the problems that one of pydantic's errors describes."""
    keys, owners, kind = _locate(entry["loc"])
    keys = [key if key.isprintable() and len(key) <= _LONGEST else format_value(key) for key in keys]
    path = ".".join(keys) or "the run file"
    got = entry["input"]
    match entry["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return [_explain_unknown(keys, owners[-1])]
        case "missing":
            return [SettingProblem(path, "is missing", way_out="it has no default")]
        case "union_tag_invalid":
            names = [name for name in _list_choices(kind) if name]
            way_out = suggest_name(got["name"], names) or "register a name of your own with --plugin FILE.py"
            return [must(f"{path}.name", f"one of {', '.join(names)}", got["name"], way_out)]
        case "union_tag_not_found":
            return [must(path, "a mapping with a name", got)]
        case "json_invalid":
            return [SettingProblem("settings", f"cannot be read: {entry['ctx']['error']}")]
        case "value_error":
            error = entry["ctx"]["error"]
            problems = error.problems if isinstance(error, UserError) else [as_problem(str(error))]
            return [problem.inside(_as_place(keys)) for problem in problems]
        case other:
            return [must(path, _RULES.get(other, entry["msg"].removeprefix("Input should be ")), got)]


def _explain_unknown(keys: Sequence[str], cls: type | None) -> SettingProblem:
    *above, key = keys
    section = ".".join(above)
    names = [field.name for field in dataclasses.fields(cls)] if cls else []
    inside = section or "the run file"
    hint = suggest_setting(key, names, section) or f"{inside} has {', '.join(names) or 'none'}"
    return SettingProblem(".".join(keys), f"is not a setting of {inside}", way_out=hint)


def _locate(loc: tuple) -> tuple[list[str], list[type | None], object]:
    """Return the keys of pydantic's location `loc`, without its tags, the class of each, and the type of the last.

    The class is the one whose setting the key is; None for a position in a list.
    """
    keys: list[str] = []
    owners: list[type | None] = []
    kind: object = RunConfig
    for part in loc:
        choices = _list_choices(kind)
        if part in choices:
            kind = choices[part]
            continue
        owner = next(iter(choices.values()), None)
        keys.append(str(part))
        owners.append(owner)
        if owner is None:
            kind = [kind, *get_args(kind)][-1]
        else:
            kind = {field.name: field.type for field in dataclasses.fields(owner)}.get(part)
    return keys, owners, kind


def _list_choices(kind: object) -> "dict[str | None, type[DataclassInstance]]":
    """Return the classes that a type chooses from, by tag; by None the class of a section that has no choice."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return {None: kind}
    if isinstance(kind, ByName):
        return {name: kind.table[name] for name in kind.table}
    choices: dict[str | None, type[DataclassInstance]] = {}
    if get_origin(kind) is not list:
        for part in get_args(kind):
            choices |= _list_choices(part)
    return choices
