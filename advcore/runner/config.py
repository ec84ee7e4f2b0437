"""YAML to frozen config, checked whole before anything is built."""

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from advcore.errors import ConfigError, must
from advcore.runner.problems import problems
from advcore.runner.schema import TABLES, RunConfig

_ADAPTER = TypeAdapter(RunConfig)


class _Loader(yaml.SafeLoader):
    """Safe YAML with our own scalars (true, false, null, decimal, exponent, a/b) and no key twice."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{_place(key.start_mark)}: a setting's name must be text")
            if key.value in seen:
                raise ConfigError(f"{_place(key.start_mark)}: the key {key.value!r} stands twice; keep one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node) -> int | float:
        text = node.value
        if "/" in text:
            above, below = (float(part) for part in text.split("/"))
            if not below:
                raise ConfigError(f"{_place(node.start_mark)}: {text!r} divides by zero")
            return above / below
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_NUMBER = re.compile(rf"[-+]?{_DECIMAL}(?:[eE][-+]?\d+)?(?:/{_DECIMAL})?")
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)$"), "tf"),
    ("tag:yaml.org,2002:null", re.compile(r"(?:null|~|)$"), ["n", "~", ""]),
    ("!number", re.compile(rf"(?:{_NUMBER.pattern})$"), "-+.0123456789"),
    ("tag:yaml.org,2002:merge", re.compile(r"(?:<<)$"), "<"),
):
    _Loader.add_implicit_resolver(_tag, _pattern, list(_first))
_Loader.add_constructor("!number", _Loader.construct_number)


def _place(mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def parse(text: str, where: str) -> Any:
    """YAML text to plain values. Raises ConfigError in one line that says where."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        if "\\t" in str(problem):
            problem = "a tab cannot indent; use spaces"
        raise ConfigError(f"{where}: {_place(mark) + ': ' if mark else ''}{problem}") from None
    except Exception as error:  # what its constructors raise for tags that do not fit
        raise ConfigError(f"{where}: cannot be read: {type(error).__name__}: {error}") from None


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """The run file at `path` with `a.b=c` overrides. Raises ConfigError with every problem, a line each."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    raw = parse(text, str(path))
    if not isinstance(raw, dict):
        got = "nothing" if raw is None else type(raw).__name__
        raise ConfigError(f"{path} must hold a mapping of settings, got {got}")
    return from_dict(overridden(raw, overrides))


def overridden(raw: dict, overrides: list[str] | tuple[str, ...]) -> dict:
    """`raw` with each `a.b=c` set; numbers in the path count in lists."""
    raw = copy.deepcopy(raw)
    for override in overrides:
        path, equals, value = override.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise ConfigError(must("--set", "of the form a.b=value", override))
        here: Any = raw
        for key in keys[:-1]:
            here = _enter(here, key, override)
        if isinstance(here, list):
            here[_position(here, keys[-1], override)] = parse(value, f"--set {path}")
        else:
            here[keys[-1]] = parse(value, f"--set {path}")
    return raw


def _enter(here: Any, key: str, override: str) -> Any:
    if isinstance(here, list):
        return here[_position(here, key, override)]
    if here.get(key) is None:
        here[key] = {}
    if not isinstance(here[key], (dict, list)):
        raise ConfigError(f"--set {override}: {key} holds {here[key]!r}, which has no settings of its own")
    return here[key]


def _position(here: list, key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(here):
        raise ConfigError(f"--set {override}: {key} must be a position in a list of {len(here)}")
    return int(key)


def from_dict(raw: dict) -> RunConfig:
    """Plain values to config. Raises ConfigError with every problem, a line each, by dotted path."""
    raw = _one_of_budget_and_cost(raw)
    try:
        text = json.dumps(raw, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings must be plain finite values: {error}") from None
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ConfigError(*problems(error)) from None


def _one_of_budget_and_cost(raw: Any) -> Any:
    """`raw` without a null budget beside `selection.cost`. Raises ConfigError where both are given."""
    chosen = raw.get("selection") if isinstance(raw, dict) else None
    if not isinstance(chosen, dict) or chosen.get("cost") is None:
        return raw
    if chosen.get("budget") is not None:
        raise ConfigError(
            must("selection.cost", "null beside a budget", chosen["cost"], "set selection.budget to null")
        )
    return raw | {"selection": {key: value for key, value in chosen.items() if key != "budget"}}


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
