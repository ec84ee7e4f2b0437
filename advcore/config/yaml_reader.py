"""Reads YAML as plain Python values, by advcore's own rules.

The meaning of YAML's events is decided here: PyYAML's composer, resolver, constructor and merging are not used. This
module imports no torch, so that a file that cannot be read is refused at once.
"""

import copy
import enum
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from advcore.config.yaml_events import LARGEST_TEXT, ValueEvent, make_error_at, read_events
from advcore.errors import ConfigError, check, format_value, must, require, shorten

# Characters of a number.
LONGEST_NUMBER = 400

Scalar = str | float | bool | None  # float includes int
Value = Scalar | list["Value"] | dict[Scalar, "Value"]


def read(path: str | Path) -> dict:
    """Return the mapping that a YAML file holds, unchecked. Raises ConfigError, in one line, for anything else."""
    values = copy.deepcopy(_parse_once(_read_text(Path(path)), str(path)))
    if isinstance(values, dict):
        return values
    got = "nothing" if values is None else type(values).__name__
    raise ConfigError(f"{path} must hold a mapping of settings, got {got}")


def _read_text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_TEXT + 1)
        if len(content) > LARGEST_TEXT:
            raise ConfigError(f"{path} must be a run file of at most {LARGEST_TEXT:,} bytes")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def parse(text: str, where: str) -> Value:
    """Return the plain values that a YAML text holds: dicts, lists, text, numbers, booleans and None.

    A merge (`<<`) gives a mapping the keys of its sources: explicit keys win wherever they appear, an earlier source
    wins over a later one, and the merges inside a source are resolved first. An alias gives a copy, so that no two
    places of the result share a list or a mapping.

    Raises ConfigError in one line that begins with `where` and names line and column.
    """
    try:
        return _Builder(read_events(text)).build()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


# Parses a file once in a process: a command reads it before torch is imported, and again after. The values that it
# returns must not be changed. A text that is refused is parsed again each time.
_parse_once = lru_cache(maxsize=8)(parse)


@dataclass(frozen=True)
class Override:
    """A setting that is changed. `label` names the change in an error."""

    path: str
    value: object
    label: str


def parse_overrides(texts: Sequence[str]) -> list[Override]:
    """Return the overrides `a.b=value`, each value read as YAML. Raises ConfigError for the first malformed one."""
    length = sum(map(len, texts))
    if length > LARGEST_TEXT:
        raise ConfigError(f"all --set together must have at most {LARGEST_TEXT:,} characters, got {length:,}")
    return [_parse_override(text) for text in texts]


def _parse_override(text: str) -> Override:
    path, equals, value = text.partition("=")
    require(check(equals and all(path.split(".")), "--set", "of the form a.b=value", text))
    return Override(path, parse(value, f"--set {shorten(path)}"), f"--set {shorten(text)}")


# ---- values ----


class _Merge(enum.Enum):
    """Marks a plain `<<`."""

    KEY = "<<"


Key = Scalar | _Merge
Node = Value | _Merge


class _Builder:
    """Builds the values of events that are known to be within the limits."""

    def __init__(self, events: list[ValueEvent]) -> None:
        self._events = iter(events)
        self._anchored: dict[str | None, Node] = {}

    def build(self) -> Value:
        """Return the value of the whole text, None for an empty one."""
        return next(map(self._build_value, self._next_entries()), None)

    def _build_value(self, event: yaml.NodeEvent) -> Value:
        value = self._build_node(event)
        if value is _Merge.KEY:
            raise make_error_at(event, "<< must be the key of a merge; put it in quotes if it is text")
        return value

    def _build_node(self, event: yaml.NodeEvent) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return copy.deepcopy(self._anchored[event.anchor])
        _refuse_tag(event)
        value: Node
        if isinstance(event, yaml.ScalarEvent):
            value = _read_scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = [self._build_value(entry) for entry in self._next_entries()]
        else:
            value = self._build_mapping()
        if event.anchor is not None:
            self._anchored[event.anchor] = value
        return value

    def _next_entries(self) -> Iterator[yaml.NodeEvent]:
        """Yield the first event of each entry, up to the end of the list or mapping."""
        for event in self._events:
            if isinstance(event, yaml.CollectionEndEvent):
                return
            yield event

    def _build_mapping(self) -> dict:
        explicit: dict[Scalar, Value] = {}
        merged: dict[Scalar, Value] = {}
        names: set[Key] = set()
        for key_event in self._next_entries():
            key = self._build_key(key_event)
            key_names = _list_names(key)
            if key_names & names:
                text = "<<" if key is _Merge.KEY else key
                raise make_error_at(key_event, f"the key {format_value(text)} appears twice; keep one")
            names |= key_names
            value_event = next(self._next_entries())
            value = self._build_value(value_event)
            if key is _Merge.KEY:
                merged = _merge(value, value_event)
            else:
                explicit[key] = value
        return merged | explicit

    def _build_key(self, event: yaml.NodeEvent) -> Key:
        if not isinstance(event, yaml.CollectionStartEvent):
            key = self._build_node(event)
            if not isinstance(key, (dict, list)):  # by an alias
                return key
        raise make_error_at(event, "a setting's name must be text")


def _refuse_tag(event: yaml.NodeEvent) -> None:
    tag = getattr(event, "tag", None)
    if tag is None:
        return
    text = f"the tag {format_value(tag.replace('tag:yaml.org,2002:', '!!'))}"
    if isinstance(event, yaml.ScalarEvent):
        text += f" of {format_value(event.value)}"
    raise make_error_at(event, f"{text} cannot be read; write plain values, and text in quotes")


def _list_names(key: Key) -> set[Key]:
    """Return the key itself, since 1 equals 1.0, and its text in JSON, where 1 and '1' are the same."""
    if key is _Merge.KEY or isinstance(key, str):
        return {key}
    return {key, json.dumps(key)}


def _merge(value: Value, event: yaml.Event) -> dict:
    """Return the keys of a mapping, or of a list of mappings, of which earlier ones win over later ones."""
    merged: dict = {}
    for source in value if isinstance(value, list) else [value]:
        if not isinstance(source, dict):
            raise make_error_at(event, str(must("<<", "a mapping, or a list of mappings", source)))
        for key, entry in source.items():
            merged.setdefault(key, entry)
    return merged


# ---- scalars ----

_UNFIT = re.compile("[\0\ud800-\udfff]")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_NUMBER_CHARACTERS = "0123456789+-.eE/"
_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"  # matches digits in one way only, so that no mismatch is tried again
_NUMBER = re.compile(rf"[-+]?{_DECIMAL}(?:[eE][-+]?[0-9]+)?(?:/{_DECIMAL})?")
_WHOLE_NUMBER = re.compile(r"[-+]?[0-9]+")


def _read_scalar(event: yaml.ScalarEvent) -> Scalar | _Merge:
    """Return quoted text and blocks unchanged, and a plain scalar as a constant, a number or text."""
    text: str = event.value
    if _UNFIT.search(text):
        raise make_error_at(event, "text must not contain NUL or unpaired surrogates")
    if not event.implicit[0]:  # quoted text, or a block
        return text
    if text == "<<":
        return _Merge.KEY
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > LONGEST_NUMBER and not text.strip(_NUMBER_CHARACTERS):
        raise make_error_at(event, f"a number must have at most {LONGEST_NUMBER} characters")
    if len(text) > LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return text
    return _read_number(text, event)


def _read_number(text: str, event: yaml.Event) -> int | float:
    if _WHOLE_NUMBER.fullmatch(text):
        return int(text)
    numerator, slash, denominator = text.partition("/")
    if not slash:
        return float(text)
    if not float(denominator):
        raise make_error_at(event, f"{format_value(text)} divides by zero")
    return float(numerator) / float(denominator)
