"""YAML to frozen config, checked whole before anything is built."""

import copy
import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from advcore.errors import ConfigError, must, require, shorten, shown
from advcore.runner.problems import problems
from advcore.runner.schema import TABLES, RunConfig
from advcore.runner.yaml_events import DEEPEST
from advcore.runner.yaml_reader import Override, parse_overrides, read

_ADAPTER = TypeAdapter(RunConfig)


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run file at `path` with `a.b=c` overrides. Raises ConfigError with every problem, a line each."""
    return from_dict(overridden(read(path), overrides))


def overridden(raw: dict, overrides: Sequence[str]) -> dict:
    """`raw` with each `a.b=c` set; numbers in the path count in lists."""
    return apply_overrides(raw, parse_overrides(overrides))


def apply_overrides(raw: dict, overrides: Iterable[Override]) -> dict:
    """Return a copy of `raw` in which the overrides are made, in their order."""
    raw = copy.deepcopy(raw)
    for override in overrides:
        _set_value(raw, override.path, override.value, f"--set {shorten(override.text)}")
    return raw


def changed(raw: dict, changes: dict[str, Any]) -> dict:
    """`raw` with the value of each dotted path set, in their order; numbers in a path count in lists."""
    raw = copy.deepcopy(raw)
    for path, value in changes.items():
        _set_value(raw, path, value, shorten(path))
    return raw


def _set_value(raw: dict, path: str, value: Any, label: str) -> None:
    """Write a copy of `value` into `raw`. `label` names the change in an error."""
    *above, key = path.split(".")
    if len(above) >= DEEPEST:
        raise ConfigError(f"{label}: a path must have at most {DEEPEST} parts, got {len(above) + 1}")
    here: Any = raw
    for part in above:
        here = _enter(here, part, label)
    here[_position(here, key, label) if isinstance(here, list) else key] = copy.deepcopy(value)


def _enter(here: Any, key: str, label: str) -> Any:
    if isinstance(here, list):
        key = _position(here, key, label)
    elif here.get(key) is None:
        here[key] = {}
    if not isinstance(here[key], (dict, list)):
        raise ConfigError(f"{label}: {key} holds {shown(here[key])}, which has no settings of its own")
    return here[key]


def _position(here: list, key: str, label: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", key) or int(key) >= len(here):
        raise ConfigError(f"{label}: {key} must be a position in a list of {len(here)}")
    return int(key)


def from_dict(raw: dict) -> RunConfig:
    """Plain values to config. Raises ConfigError with every problem, a line each, by dotted path."""
    raw, found = _one_of_budget_and_cost(raw)
    try:
        text = json.dumps(raw)  # with NaN and infinity, which the settings refuse by name
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"settings must be plain values: {error}") from None
    try:
        config = _ADAPTER.validate_json(text)
    except ValidationError as error:
        found += problems(error, raw)
    require(*found)
    return config


def _one_of_budget_and_cost(raw: Any) -> tuple[Any, list[str]]:
    """`raw` without a budget beside `selection.cost`, and the problem where that was not null."""
    chosen = raw.get("selection") if isinstance(raw, dict) else None
    if not isinstance(chosen, dict) or chosen.get("cost") is None:
        return raw, []
    found = []
    if chosen.get("budget") is not None:
        found += [must("selection.cost", "null beside a budget", chosen["cost"], "set selection.budget to null")]
    return raw | {"selection": {key: value for key, value in chosen.items() if key != "budget"}}, found


def resolved(config: RunConfig) -> dict[str, Any]:
    """Every setting, defaults included, as `from_dict` reads it."""
    found = json.loads(json.dumps(_plain(config)))
    if config.selection is not None and config.selection.cost is not None:
        found["selection"]["budget"] = None  # it is not known yet
    return found


_NAMES = {cls: name for table in TABLES.values() for name, cls in table.items()}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        own = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        name = _NAMES.get(type(value))
        if name == "timm":
            name = f"timm:{own.pop('architecture')}"
        return {"name": name, **own} if name else own
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def changes(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """ "a.b.c: old -> new" of two resolved configs, setting by setting."""
    found = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new, here = before.get(key), now.get(key), f"{path}.{key}" if path else key
        if isinstance(old, dict) and isinstance(new, dict) and old.get("name") == new.get("name"):
            found += changes(old, new, here)
        elif old != new:
            found.append(f"{here}: {shown(old)} -> {shown(new)}")
    return found
