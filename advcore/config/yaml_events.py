"""Turns YAML text into events, within limits that are checked before the work is done.

Only PyYAML's scanner and parser are used. There are limits for the length of the text, for the number of tokens, which
are counted before each is scanned, and for the size of the values, aliases followed, before any of them is built.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import yaml
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.scanner import Scanner

from advcore.errors import ConfigError, format_value

LARGEST_TEXT = 100_000
"""Bytes of a file, and characters of a text."""
MOST_TOKENS = 20_000
"""Tokens of a text: keys, values, brackets, commas and the like."""
MOST_VALUES = 10_000
"""Values and keys, where aliases are followed."""
MOST_CHARACTERS = 1_000_000
"""Characters of all scalars, where aliases are followed."""
DEEPEST = 30
"""Levels of lists and mappings, where aliases are followed."""
ValueEvent: TypeAlias = yaml.NodeEvent | yaml.CollectionEndEvent
"""A value, a key, or the beginning or the end of a list or mapping."""


def read_events(text: str) -> list[ValueEvent]:
    """Return the events of the text's values, keys, and ends of lists and mappings; none for an empty text.

    Raises ConfigError, in one line, for a text that is not YAML, holds several documents, exceeds a limit, or has an
    anchor or alias that makes no sense. It names line and column, except for a text that is too long.
    """
    events: list[ValueEvent] = []
    documents = 0
    meter = _Meter()
    for event in _scan(text):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if documents > 1:
            raise make_error_at(event, "a text must hold one document, another document begins here")
        if isinstance(event, ValueEvent):
            meter.count(event)
            events.append(event)
    return events


def make_error_at(where: yaml.Event | yaml.Mark, text: str) -> ConfigError:
    """Return an error that names the line and column, counted from 1, of the start of an event or of a mark."""
    mark = where.start_mark if isinstance(where, yaml.Event) else where
    assert isinstance(mark, yaml.Mark), "PyYAML's parser in Python marks every event"
    return ConfigError(f"line {mark.line + 1}, column {mark.column + 1}: {text}")


class _Scanner(Reader, Scanner, Parser):
    """PyYAML's scanner and parser, with limits on how many tokens are scanned and how many brackets are open."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        self._tokens_scanned = 0

    def need_more_tokens(self) -> bool:
        """Return whether more tokens must be scanned before the next one is certain, since it may begin a key.

        Differs from PyYAML's in speed alone: where no token can begin a key, none is looked through.
        """
        if self.tokens and not self.possible_simple_keys:
            return False
        return bool(super().need_more_tokens())

    def fetch_more_tokens(self) -> None:
        """Scan one more token. Raises ConfigError where there are too many, or too many brackets are open.

        The brackets are counted here and not on the events: a bracket may begin a key, so the scanner reads on, up to
        1,024 characters, before the bracket becomes an event. Its cost there grows with the brackets that are open.
        """
        self._tokens_scanned += 1
        if self._tokens_scanned > MOST_TOKENS:
            raise make_error_at(self.get_mark(), f"a text must have at most {MOST_TOKENS:,} tokens")
        if self.flow_level > DEEPEST:
            raise make_error_at(self.get_mark(), f"settings must be nested at most {DEEPEST} deep")
        super().fetch_more_tokens()


def _scan(text: str) -> Iterator[yaml.Event]:
    """Yield the events of a text. Raises ConfigError where it is not YAML, is too long, or has too many tokens."""
    if len(text) > LARGEST_TEXT:
        raise ConfigError(f"a text must have at most {LARGEST_TEXT:,} characters, got {len(text):,}")
    try:
        scanner = _Scanner(text)
    except ReaderError as error:
        before = text[: error.position]
        column = len(before) - before.rfind("\n") - 1
        mark = yaml.Mark("", error.position, line=before.count("\n"), column=column, buffer=None, pointer=0)
        raise make_error_at(mark, f"the character #x{error.character:04x} cannot be read") from None
    try:
        while scanner.check_event():
            yield scanner.get_event()
    except yaml.MarkedYAMLError as error:
        assert error.problem is not None and error.problem_mark is not None, "scanner and parser say what and where"
        problem = "a tab cannot indent; use spaces" if "\\t" in error.problem else error.problem
        raise make_error_at(error.problem_mark, problem) from None
    except ConfigError:
        raise
    except (ValueError, OverflowError) as error:  # an escape that is not a character, a version of too many digits
        raise make_error_at(scanner.get_mark(), f"cannot be read: {error}") from None


# ---- limits ----


@dataclass
class _Size:
    """The size of a value where its aliases are followed; of a list or mapping that is still open, so far."""

    values: int = 0
    characters: int = 0
    levels: int = 0


class _Meter:
    """Measures the values that the events will be built into."""

    def __init__(self) -> None:
        self._open = [_Size()]  # of the whole text, and of the lists and mappings whose end has not been read
        self._sizes: dict[str | None, _Size] = {}  # by anchor

    def count(self, event: ValueEvent) -> None:
        """Count an event. Raises ConfigError where it exceeds a limit, or its anchor or alias makes no sense."""
        if isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            return
        size = self._measure(event)
        for depth, outer in enumerate(reversed(self._open)):
            outer.values += size.values
            outer.characters += size.characters
            outer.levels = max(outer.levels, depth + 1 + size.levels)
        text = self._open[0]
        if text.values > MOST_VALUES or text.characters > MOST_CHARACTERS:
            limit = f"at most {MOST_VALUES:,} values and {MOST_CHARACTERS:,} characters"
            raise make_error_at(event, f"a text must hold {limit}, with aliases expanded")
        if text.levels > DEEPEST + 1:
            raise make_error_at(event, f"settings must be nested at most {DEEPEST} deep, with aliases expanded")
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append(size)

    def _measure(self, event: yaml.NodeEvent) -> _Size:
        """Return the size of a value or key, and keep it by its anchor."""
        if isinstance(event, yaml.AliasEvent):
            return self._find_size(event)
        if event.anchor in self._sizes:
            raise make_error_at(event, f"the anchor {format_value(event.anchor)} is defined twice; rename one")
        size = _Size(values=1, levels=1)
        if isinstance(event, yaml.ScalarEvent):
            size = _Size(values=1, characters=len(event.value))
        if event.anchor is not None:
            self._sizes[event.anchor] = size
        return size

    def _find_size(self, alias: yaml.AliasEvent) -> _Size:
        """Return the size of what an alias means. Raises ConfigError where that is missing, or holds the alias."""
        size = self._sizes.get(alias.anchor)
        if size is None:
            raise make_error_at(alias, f"the alias {format_value(alias.anchor)} has no anchor before it")
        if any(size is outer for outer in self._open):
            raise make_error_at(alias, "an alias must not appear inside the value of its own anchor")
        return size
