"""What a page consists of: sections, and in them notes, tables, charts, images and folded texts.

The template holds a macro for each, under the name of its class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup


@dataclass(frozen=True)
class Note:
    """A line of text.

    kind : "plain", "warning", "flag" (a reason not to trust the numbers), or "missing" (the record lacks something).
    """

    text: str
    kind: str = "plain"


def note_if(condition: object, text: str, kind: str = "plain") -> list[Note]:
    """Return a note where a condition holds, and nothing otherwise."""
    return [Note(text, kind)] if condition else []


@dataclass(frozen=True)
class Table:
    """A table; a row of a single cell spans all columns.

    words : how many of the first columns hold text, and are aligned left; the others hold numbers.
    links : an address for the first cell of each row, "" for none.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    links: Sequence[str] = ()


def drop_if_empty(table: Table, column: str) -> Table:
    """Return a table, whose rows have all columns, without a column of text in which no row has anything."""
    columns = [i for i, name in enumerate(table.header) if name != column or any(row[i] for row in table.rows)]
    header, *rows = ([row[i] for i in columns] for row in (table.header, *table.rows))
    return replace(table, header=header, rows=rows, words=table.words - len(table.header) + len(columns))


def table_or_note(table: Table, text: str) -> Table | Note:
    """Return a table that has rows, and otherwise a note."""
    return table if table.rows else Note(text)


@dataclass(frozen=True)
class Figure:
    """A chart and its caption. `wide` is the same chart drawn for a wide page."""

    caption: str
    picture: Markup
    wide: Markup | None = None


@dataclass(frozen=True)
class Figures:
    """Figures beside each other where the page is wide enough; more of them in a line where they are `small`."""

    figures: Sequence[Figure]
    small: bool = False


@dataclass(frozen=True)
class Example:
    """An example: its images, each an alternative text and a data URI, and lines of text below them."""

    images: Sequence[tuple[str, str]]
    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """Examples under a common title."""

    title: str
    examples: Sequence[Example]


@dataclass(frozen=True)
class Listing:
    """A long text of which only the summary is visible until it is opened."""

    summary: str
    text: str


Part = Note | Table | Figures | Gallery | Listing


@dataclass(frozen=True)
class Section:
    """A titled section; `id` is its address on the page."""

    title: str
    id: str
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Page:
    """A page, ready to be rendered.

    key : the most important numbers, each as (name, value, remark).
    notes : what must be read before any number.
    """

    title: str
    subtitle: str
    key: Sequence[tuple[str, str, str]] = ()
    notes: Sequence[Note] = ()
    sections: Sequence[Section] = field(default_factory=list)
    footer: str = ""
