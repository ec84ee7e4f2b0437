"""Converts YAML or plain values to a frozen config and back; everything is checked before anything is built."""

import copy
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from advcore.config.messages import list_problems
from advcore.config.schema import TABLES, WITH_ARCHITECTURE, RunConfig, find_rest_setting
from advcore.config.yaml_events import DEEPEST
from advcore.config.yaml_reader import Override, parse_overrides, read
from advcore.errors import ConfigError, SettingProblem, format_value, must, require, shorten


@functools.cache
def _build_adapter(entries: tuple[tuple[str, type], ...]) -> TypeAdapter[RunConfig]:
    """Build the reader of run files, again whenever the `entries` of the tables have changed."""
    return TypeAdapter(RunConfig)


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the run file at `path` and apply overrides "a.b=c". Raises ConfigError with one line per problem."""
    return from_dict(override(read(path), overrides))


def override(raw: dict, overrides: Sequence[str]) -> dict:
    """Return a copy of `raw` with each override "a.b=c" applied, in order. Numbers in a path are positions in lists."""
    return apply_overrides(raw, parse_overrides(overrides))


def set_values(raw: dict, changes: Mapping[str, object]) -> dict:
    """Return a copy of `raw` with the value of each dotted path set, in order."""
    return apply_overrides(raw, [Override(path, value, shorten(path)) for path, value in changes.items()])


def apply_overrides(raw: dict, overrides: Iterable[Override]) -> dict:
    """Return a copy of `raw` with the overrides applied, in order.

    Mappings that are missing on the way are created. Raises ConfigError for a path that is too long, goes through a
    plain value, or names no position of a list.
    """
    raw = copy.deepcopy(raw)
    for override in overrides:
        *above, key = override.path.split(".")
        if len(above) >= DEEPEST:
            raise ConfigError(f"{override.label}: a path must have at most {DEEPEST} parts, got {len(above) + 1}")
        node: dict | list = raw
        for part in above:
            node = _enter(node, part, override.label)
        if isinstance(node, list):
            node[_parse_position(node, key, override.label)] = copy.deepcopy(override.value)
        else:
            node[key] = copy.deepcopy(override.value)
    return raw


def _enter(node: dict | list, key: str, label: str) -> dict | list:
    if isinstance(node, list):
        inner = node[_parse_position(node, key, label)]
    elif node.get(key) is None:
        inner = node[key] = {}
    else:
        inner = node[key]
    if not isinstance(inner, (dict, list)):
        raise ConfigError(f"{label}: {key} holds {format_value(inner)}, which has no settings")
    return inner


def _parse_position(values: list, key: str, label: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", key) or int(key) >= len(values):
        raise ConfigError(f"{label}: {key} must be a position in a list of {len(values)}")
    return int(key)


def from_dict(raw: dict) -> RunConfig:
    """Return the config of plain values. Raises ConfigError with one line per problem, each with a dotted path."""
    values, problems = _drop_budget_beside_cost(raw)
    try:
        text = json.dumps(values)  # with NaN and infinity, which the settings refuse by name
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"settings must be plain values: {error}") from None
    try:
        config = _build_adapter(tuple(_list_entries())).validate_json(text)
    except ValidationError as error:
        problems += list_problems(error, values)
    require(*problems)
    return config


def _list_entries() -> Iterator[tuple[str, type]]:
    """Yield name and class of each entry of a table of methods."""
    for table in TABLES.values():
        yield from table.items()


def _drop_budget_beside_cost(raw: object) -> tuple[object, list[SettingProblem]]:
    """Return `raw` without the budget if it sets `selection.cost`, and a problem if that budget was not null."""
    match raw:
        case {"selection": {"cost": cost, **selection}, **rest} if cost is not None:
            budget = selection.pop("budget", None)
            conflict = must("selection.cost", "null if a budget is given", cost, "set selection.budget to null")
            return {**rest, "selection": {**selection, "cost": cost}}, [conflict] if budget is not None else []
    return raw, []


def resolve(config: RunConfig) -> dict:
    """Return every setting, defaults included, as plain values that `from_dict` reads."""
    values = json.loads(json.dumps(_to_plain(config)))
    if config.selection is not None and config.selection.cost is not None:
        values["selection"]["budget"] = None  # the cost determines it, once the data are known
    return values


def _find_name(value: object) -> str | None:
    """Return the name in a table of a value's class, or of the nearest base of it; None where no table has one."""
    names = {cls: name for name, cls in _list_entries()}
    return next((names[cls] for cls in type(value).__mro__ if cls in names), None)


def _to_plain(value: object) -> object:
    """Return a config, or a part of one, as mappings, lists and plain values; classes of a table get their `name`."""
    if dataclasses.is_dataclass(value):
        settings = [
            field.name for field in dataclasses.fields(value) if field.repr
        ]  # what is not shown is not a setting
        values = {name: _to_plain(getattr(value, name)) for name in settings}
        name = _find_name(value)
        if name in WITH_ARCHITECTURE:
            name = f"{name}:{values.pop(find_rest_setting(type(value)))}"
        return {"name": name, **values} if name else values
    if isinstance(value, (list, tuple)):
        return [_to_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _to_plain(entry) for key, entry in value.items()}
    return value


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting that differs between two configs; as text it is "a.b.c: old -> new"."""

    path: str
    old: object
    new: object

    def __str__(self) -> str:
        return f"{self.path}: {format_value(self.old)} -> {format_value(self.new)}"


def list_changes(before: dict, now: dict, prefix: str = "") -> list[Change]:
    """Compare two resolved configs setting by setting.

    `prefix`, such as "a.", is put before the paths of settings. Settings of different classes are one difference.
    """
    changes = []
    for key in before | now:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and old.get("name") == new.get("name"):
            changes += list_changes(old, new, f"{prefix}{key}.")
        elif old != new:
            changes.append(Change(f"{prefix}{key}", old, new))
    return changes
