"""YAML to frozen config, checked whole before anything is built."""

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from advcore.errors import ConfigError, must, require, shown
from advcore.runner.problems import problems
from advcore.runner.schema import TABLES, RunConfig

_ADAPTER = TypeAdapter(RunConfig)


_LARGEST = 500_000  # bytes of a file
_MOST_VALUES, _DEEPEST, _LONGEST = 100_000, 30, 400  # values of a file, aliases followed; levels; digits of a number
_PLAIN = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "bool", "null"))
_UNFIT = re.compile("[\0\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """Safe YAML with our own scalars (true, false, null, decimal, exponent, a/b), no other tags, no key twice, and no
    aliases that grow beyond measure."""

    yaml_implicit_resolvers: dict = {}
    yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _PLAIN}

    def __init__(self, stream):
        super().__init__(stream)
        self._level, self._measured = 0, {}

    def compose_node(self, parent, index):
        """A node, once it is known how many values and levels it holds where its aliases are followed: whatever is
        built from it, merges too, is no larger."""
        alias, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        self._level += 1
        if self._level > _DEEPEST:
            raise ConfigError(f"{_place(mark)}: settings must be nested at most {_DEEPEST} deep")
        node = super().compose_node(parent, index)
        self._level -= 1
        if not alias:
            self._measured[id(node)] = self._measure(node)
        elif id(node) not in self._measured:
            raise ConfigError(f"{_place(mark)}: an alias must not stand inside what it means")
        size, levels = self._measured[id(node)]
        if size > _MOST_VALUES or levels > _DEEPEST:
            rule = f"at most {_MOST_VALUES:,} values, {_DEEPEST} deep, where aliases are followed"
            raise ConfigError(f"{_place(mark)}: a run file must hold {rule}")
        return node

    def _measure(self, node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            if _UNFIT.search(node.value):
                raise ConfigError(f"{_place(node.start_mark)}: text must be characters without NUL or half of a pair")
            return 1, 1
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        below = [child for entry in node.value for child in (entry if isinstance(entry, tuple) else (entry,))]
        found = [self._measured[id(child)] for child in below]
        return 1 + sum(size for size, _ in found), 1 + max((levels for _, levels in found), default=0)

    def construct_number(self, node) -> int | float:
        text = node.value
        if not isinstance(text, str) or not _NUMBER.fullmatch(text):
            raise ConfigError(f"{_place(node.start_mark)}: {shown(text)} cannot be read as a number")
        if len(text) > _LONGEST:
            raise ConfigError(f"{_place(node.start_mark)}: a number must have at most {_LONGEST} characters")
        if "/" in text:
            above, below = (float(part) for part in text.split("/"))
            if not below:
                raise ConfigError(f"{_place(node.start_mark)}: {text!r} divides by zero")
            return above / below
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)

    def construct_undefined(self, node):
        raise ConfigError(f"{_place(node.start_mark)}: the tag {shown(node.tag)} cannot be read; write plain values")


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{_place(key.start_mark)}: a setting's name must be text")
        if key.value in seen:
            raise ConfigError(f"{_place(key.start_mark)}: the key {shown(key.value)} stands twice; keep one")
        seen.add(key.value)


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
_Loader.add_constructor(None, _Loader.construct_undefined)


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
    return from_dict(overridden(read(path), overrides))


def read(path: str | Path) -> dict:
    """The mapping that a YAML file holds, unchecked. Raises ConfigError for anything else."""
    raw = parse(_text(Path(path)), str(path))
    if not isinstance(raw, dict):
        got = "nothing" if raw is None else type(raw).__name__
        raise ConfigError(f"{path} must hold a mapping of settings, got {got}")
    return raw


def _text(path: Path) -> str:
    """The file's text, if it is one that a run file can have."""
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ConfigError(f"{path} must be a run file of at most {_LARGEST:,} bytes")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def overridden(raw: dict, overrides: list[str] | tuple[str, ...]) -> dict:
    """`raw` with each `a.b=c` set; numbers in the path count in lists."""
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(must("--set", "of the form a.b=value", override))
        raw = changed(raw, {path: parse(value, f"--set {path}")}, lambda path, value=value: f"--set {path}={value}")
    return raw


def changed(raw: dict, changes: dict[str, Any], told: Callable[[str], str] = str) -> dict:
    """`raw` with the value of each dotted path set, in their order; numbers in a path count in lists. `told`: how an
    error names a path."""
    raw = copy.deepcopy(raw)
    for path, value in changes.items():
        keys, here = path.split("."), raw
        for key in keys[:-1]:
            here = _enter(here, key, told(path))
        here[_position(here, keys[-1], told(path)) if isinstance(here, list) else keys[-1]] = copy.deepcopy(value)
    return raw


def _enter(here: Any, key: str, told: str) -> Any:
    if isinstance(here, list):
        key = _position(here, key, told)
    elif here.get(key) is None:
        here[key] = {}
    if not isinstance(here[key], (dict, list)):
        raise ConfigError(f"{told}: {key} holds {here[key]!r}, which has no settings of its own")
    return here[key]


def _position(here: list, key: str, told: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", key) or int(key) >= len(here):
        raise ConfigError(f"{told}: {key} must be a position in a list of {len(here)}")
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
