"""docs/settings.md, every setting of a run file, from the schema's dataclasses and their docstrings.

python docs/site/settings_page.py
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import get_args

from contents import ROOT
from docstrings import Parameter, fields, meanings

from advcore.config.aliases import PLACES
from advcore.config.schema import (
    TABLES,
    WITH_ARCHITECTURE,
    CheckpointConfig,
    CostConfig,
    EvaluationConfig,
    RunConfig,
    SelectionConfig,
    TrainingConfig,
)

PAGE = ROOT / "docs" / "settings.md"
HEAD = """# Every setting

Generated from the code by `python docs/site/settings_page.py`; a test fails when it is stale.

A run file is YAML. `--set` takes a key path: `--set selection.budget=0.3`, `--set evaluation.attacks.0.steps=20`.
Numbers may be written `0.1`, `1e-3` or `8/255`; `null` means no value. A setting that is left out has its default;
**required** settings have none. A part with a `name` (data, model, attack, ...) has the settings listed under that
name, and those of the groups that contain it. Unknown keys, wrong types and values out of range are all reported at
once, before anything runs. Pixels, and radii in pixels, are in [0, 1]; shares and accuracies are fractions. The
[glossary](glossary.md) explains the terms.
"""
ONE = {"evaluation.attacks.N": "attack", "tracking.N": "tracker"}
ALSO = {
    "attack": "Used as `attack` (training), `selection.attack`, and `evaluation.attacks.N`, with N counted from 0.",
    "evaluation.attacks.N": "In addition to every attack above that stays in its ball, an evaluation accepts these.",
}
CONFIGS = {
    "selection": SelectionConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
    "cost": CostConfig,
    "checkpoint": CheckpointConfig,
}
_KINDS = {"float": "number", "int": "whole number", "str": "text", "bool": "true or false", "list": "list"}


def kind(annotation: str) -> str:
    """A type as a run file's reader knows it."""
    parts = [part.strip() for part in annotation.split("|")]
    words = []
    for part in parts:
        outer = part.split("[")[0]
        if part == "None":
            words.append("null")
        elif part == "list[int]":
            words.append("list of whole numbers")
        elif part == "list[str]":
            words.append("list of text")
        elif outer == "dict":
            words.append("mapping")
        elif part.startswith("list["):
            words.append("list of named settings")
        elif part.endswith("Choice"):
            words.append("named settings")
        else:
            words.append(_KINDS.get(outer, "settings"))
    return " or ".join(words)


def shown(default: str | None) -> str:
    """A default as YAML has it."""
    if default is None:
        return "**required**"
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):  # another settings class with its own defaults
        names = [name for table in TABLES.values() for name, cls in table.items() if default == f"{cls.__name__}()"]
        return f"`{{name: {names[0]}}}`" if names else "its own defaults"
    words = {None: "null", True: "true", False: "false"}
    return f"`{words[value] if value is None or isinstance(value, bool) else value}`"


def unit(cls: type, name: str) -> str:
    """The unit of a setting that holds a number, from the field's metadata; nothing for what has none."""
    return cls.__dataclass_fields__[name].metadata.get("unit", "")


def meaning(cls: type, name: str) -> str:
    """What the nearest docstring says of a setting; one that points elsewhere is followed."""
    texts = [own for base in cls.__mro__ if (own := said(base).get(name))]
    text = next((one for one in texts if not one.startswith("see ")), "")
    pointer = re.match(r"see `(\w+)`(?:; )?(.*)", texts[0]) if texts and not text else None
    if pointer:
        (other,) = {one for table in TABLES.values() for one in table.values() if one.__name__ == pointer[1]}
        text = f"{meaning(other, name)} {pointer[2]}".strip()
    if not text and texts:
        return f"[below](#{name})"
    return re.sub(r"\b(None|False|True)\b", lambda match: shown(match[1]).strip("`"), text)


def said(cls: type) -> dict[str, str]:
    """What a class's own docstring says of each setting."""
    return meanings(inspect.cleandoc(cls.__dict__.get("__doc__") or ""))


def row(place: str, cls: type, parameter: Parameter) -> str:
    """A setting's row: key path, type and unit, default, meaning."""
    type_and_unit = ", ".join(filter(None, [kind(parameter.kind), unit(cls, parameter.name)]))
    path = f"{place}.{parameter.name}" if place else parameter.name
    cells = [f"`{path}`", type_and_unit, shown(parameter.default), meaning(cls, parameter.name)]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def table(place: str, cls: type, names: list[str]) -> Iterator[str]:
    parameters = fields(cls)
    if names:
        head = ["| key | type, unit | default | meaning |", "| --- | --- | --- | --- |"]
        yield "\n".join([*head, *(row(place, cls, parameters[name]) for name in names)])


def first_line(cls: type) -> str:
    """The first paragraph of a class's docstring, without the pointer to its settings."""
    text = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
    return re.sub(r"; see `\w+` for its (?:other )?settings| Settings: see `\w+`\.", "", text)


def config(place: str, cls: type) -> Iterator[str]:
    """A part of the run file that has no name to choose, and the parts inside of it."""
    yield f"## {place}"
    yield first_line(cls)
    yield from table(place, cls, list(fields(cls)))
    yield from inside(place, cls, list(fields(cls)))


def inside(place: str, cls: type, names: list[str]) -> Iterator[str]:
    """Those of the settings `names` that are settings themselves, without a name to choose."""
    for field in dataclasses.fields(cls):
        own = [
            one
            for one in (field.type, *get_args(field.type))
            if isinstance(one, type) and dataclasses.is_dataclass(one)
        ]
        if field.name in names and len(own) == 1:
            yield f"### {place}.{field.name}"
            yield first_line(own[0])
            yield from table(f"{place}.{field.name}", own[0], list(fields(own[0])))


def choice(title: str, place: str) -> Iterator[str]:
    """A part whose `name` says which settings it has: what several names share, then each name."""
    entries = TABLES[title]
    names = {base: settings_of(base) for cls in entries.values() for base in reversed(cls.__mro__)}
    users = {base: [name for name, cls in entries.items() if issubclass(cls, base)] for base in names}
    yield f"## {place}"
    yield ALSO.get(place, f"One of {listed(entries)}.")
    for base in names:
        if names[base] and base not in entries.values():
            yield "**All of them:**" if len(users[base]) == len(entries) else f"**{listed(users[base])}:**"
            yield from table(place, base, names[base])
            yield from inside(place, base, names[base])
    for name, cls in entries.items():
        ending = ":NAME" if name in WITH_ARCHITECTURE else ""
        yield f"### {ONE.get(place) or place.split('.')[-1]} `{name}{ending}`"
        yield first_line(cls)
        yield from table(place, cls, settings_of(cls))


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def settings_of(cls: type) -> list[str]:
    """The settings that a class itself adds, to which it gives another default, or of which it says more."""
    if not dataclasses.is_dataclass(cls):
        return []
    own, more = cls.__dict__.get("__annotations__", {}), said(cls)
    return [name for name in fields(cls) if name in own or not more.get(name, "see ").startswith("see ")]


def text() -> str:
    """The page."""
    parts = [HEAD.strip(), "## The run file", *table("", RunConfig, list(fields(RunConfig)))]
    order = ["data", "models", "objectives", "attacks"]
    for title in order:
        parts += choice(title, PLACES[title])
    for place, cls in CONFIGS.items():
        parts += choice("minibatch", "minibatch") if place == "training" else []
        parts += config(place, cls)
        for title, own in PLACES.items():
            if title not in order and own.split(".")[0] == place:
                parts += choice(title, own)
    parts += choice("trackers", PLACES["trackers"])
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text())
