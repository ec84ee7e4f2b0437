"""pydantic's findings in our own words: path, rule, value, way out."""

import dataclasses
import re
from typing import Any, get_args, get_origin

from pydantic import Tag, ValidationError

from advcore.errors import must, nearest
from advcore.runner.schema import RunConfig


def problems(error: ValidationError) -> list[str]:
    """One line a problem, each once."""
    lines = [line for entry in error.errors(include_url=False) for line in _lines(entry)]
    return list(dict.fromkeys(lines))


def _lines(entry: dict) -> list[str]:
    """An entry of pydantic's as one line a problem: path, rule, value, way out."""
    keys, cls = _walk(entry["loc"])
    path, got = ".".join(keys), entry["input"]
    match entry["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            known = [f.name for f in dataclasses.fields(cls)] if cls else []
            inside = ".".join(keys[:-1]) or "the run file"
            hint = nearest(keys[-1], known) or f"{inside} has {', '.join(known) or 'none'}"
            return [f"{path} is not a setting of {inside}; {hint}"]
        case "missing":
            return [f"{path} is missing; it has no default"]
        case "union_tag_invalid":
            known = re.findall(r"'([^']*)'", entry["ctx"]["expected_tags"])
            return [must(f"{path}.name", f"one of {', '.join(known)}", got["name"], nearest(got["name"], known))]
        case "union_tag_not_found":
            return [must(path, "a mapping with a name", got)]
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


def _walk(loc: tuple) -> tuple[list[str], type | None]:
    """The dotted path of `loc` without pydantic's tags, and the class whose setting its last key is."""
    keys: list[str] = []
    here: Any = RunConfig
    owner: type | None = None
    for part in loc:
        choices = _choices(here)
        if part in choices:
            here = choices[part]
            continue
        keys.append(str(part))
        here = here if isinstance(here, type) and dataclasses.is_dataclass(here) else next(iter(choices.values()), here)
        if isinstance(here, type) and dataclasses.is_dataclass(here):
            owner, here = here, {f.name: f.type for f in dataclasses.fields(here)}.get(part)
        elif get_args(here):
            here = get_args(here)[-1]
    return keys, owner


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
