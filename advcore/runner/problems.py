"""pydantic's findings in our own words: path, rule, value, way out."""

import dataclasses
import re
from typing import Any, get_args, get_origin

from pydantic import Tag, ValidationError

from advcore.errors import UserError, must, shown
from advcore.runner.aliases import suggest_name, suggest_setting
from advcore.runner.schema import RunConfig

_LONGEST = 60  # characters of a key


def problems(error: ValidationError, raw: Any) -> list[str]:
    """One line a problem of `raw`, each once; also those of settings that pydantic did not come to because others of
    the same section are wrong."""
    entries = error.errors(include_url=False)
    lines = [line for entry in entries for line in _lines(entry)]
    return list(dict.fromkeys(lines + _unasked(entries, raw)))


def _unasked(entries: list[dict], raw: Any) -> list[str]:
    """What the classes' own checks say about the settings that have the right type, beside those that have not."""
    wrong: dict[tuple[str, ...], tuple[type | None, set[str]]] = {}
    for entry in entries:
        keys, owners = _walk(entry["loc"])
        for depth, owner in enumerate(owners):
            wrong.setdefault(tuple(keys[:depth]), (owner, set()))[1].add(keys[depth])
    found = []
    for above, (cls, bad) in wrong.items():
        here = _given(raw, above)
        if cls is None or not isinstance(here, dict):
            continue
        values = {f.name: here.get(f.name) for f in dataclasses.fields(cls) if f.name in here or _needed(f)}
        try:
            cls(**values)
        except UserError as error:
            sound = values.keys() & here.keys() - bad
            found += [".".join([*above, line]) for line in error.problems if re.split(r"\W", line)[0] in sound]
        except (TypeError, AttributeError, LookupError):  # what a wrong type breaks in a check across settings
            continue
    return found


def _needed(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _given(raw: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        raw = raw[int(key)] if isinstance(raw, list) else raw.get(key)
    return raw


def _lines(entry: dict) -> list[str]:
    """An entry of pydantic's as one line a problem: path, rule, value, way out."""
    keys, owners = _walk(entry["loc"])
    keys, cls = [_word(key) for key in keys], owners[-1] if owners else None
    path, got = ".".join(keys) or "the run file", entry["input"]
    match entry["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            known = [f.name for f in dataclasses.fields(cls)] if cls else []
            inside = ".".join(keys[:-1]) or "the run file"
            hint = suggest_setting(keys[-1], known, ".".join(keys[:-1])) or f"{inside} has {', '.join(known) or 'none'}"
            return [f"{path} is not a setting of {inside}; {hint}"]
        case "missing":
            return [f"{path} is missing; it has no default"]
        case "union_tag_invalid":
            known = re.findall(r"'([^']*)'", entry["ctx"]["expected_tags"])
            return [must(f"{path}.name", f"one of {', '.join(known)}", got["name"], suggest_name(got["name"], known))]
        case "union_tag_not_found":
            return [must(path, "a mapping with a name", got)]
        case "json_invalid":
            return [f"settings cannot be read: {entry['ctx']['error']}"]
        case "value_error":
            return [".".join([*keys, problem]) for problem in str(entry["ctx"]["error"]).split("\n")]
        case _:
            return [must(path, _rule(entry), got)]


def _rule(entry: dict) -> str:
    return {
        "float_type": "a number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "string_type": "text",
        "bool_type": "true or false",
        "list_type": "a list",
        "none_required": "null",
        "dataclass_type": "a mapping of settings",
        "dict_type": "a mapping",
    }.get(entry["type"], entry["msg"].removeprefix("Input should be "))


def _word(key: str) -> str:
    return key if key.isprintable() and len(key) <= _LONGEST else shown(key)


def _walk(loc: tuple) -> tuple[list[str], list[type | None]]:
    """The keys of `loc`, without pydantic's tags, and for each the class whose setting it is."""
    keys: list[str] = []
    owners: list[type | None] = []
    here: Any = RunConfig
    for part in loc:
        choices = _choices(here)
        if part in choices:
            here = choices[part]
            continue
        keys.append(str(part))
        here = here if isinstance(here, type) and dataclasses.is_dataclass(here) else next(iter(choices.values()), here)
        if isinstance(here, type) and dataclasses.is_dataclass(here):
            owners.append(here)
            here = {f.name: f.type for f in dataclasses.fields(here)}.get(part)
        else:
            owners.append(None)
            here = get_args(here)[-1] if get_args(here) else here
    return keys, owners


def _choices(kind: Any) -> dict[str, Any]:
    """The classes a type chooses from, by tag; an optional class by its own name."""
    found: dict[str, Any] = {}
    for part in get_args(kind):
        tags = [extra.tag for extra in getattr(part, "__metadata__", ()) if isinstance(extra, Tag)]
        if tags:
            found[tags[0]] = get_args(part)[0]
        elif isinstance(part, type) and dataclasses.is_dataclass(part):
            found[part.__name__] = part
        elif get_origin(kind) is not list:
            found |= _choices(part)
    return found
