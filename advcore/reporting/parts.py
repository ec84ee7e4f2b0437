"""What a page consists of: a summary, then sections with notes, tables, charts, images and folded parts.

The template holds a macro for each, under the name of its class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup


@dataclass(frozen=True)
class Note:
    """A line of text.

    kind : "plain", "good" (a check that passed), "warning", "flag" (a reason not to trust the numbers), or "missing"
        (the record lacks something).
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
    """A chart and its caption.

    picture : the chart, drawn for a telephone. wide : the same chart drawn for a wider screen, if it has one.
    broad : the chart takes the whole width of the page.
    """

    caption: str
    picture: Markup
    wide: Markup | None = None
    broad: bool = False


@dataclass(frozen=True)
class Figures:
    """Figures next to each other where the page is wide enough; more of them in a line where they are `small`."""

    figures: Sequence[Figure]
    small: bool = False


@dataclass(frozen=True)
class Example:
    """An example: its images, each a caption and a data URI, and lines of text, of which the first is its heading."""

    images: Sequence[tuple[str, str]]
    lines: Sequence[str]


# Examples of a gallery that are visible before it is opened.
VISIBLE = 3


@dataclass(frozen=True)
class Gallery:
    """Examples under a common title, of which the first are visible and the others folded."""

    title: str
    examples: Sequence[Example]

    @property
    def first(self) -> Sequence[Example]:
        """The examples that are visible."""
        return self.examples[:VISIBLE]

    @property
    def rest(self) -> Sequence[Example]:
        """The examples that are folded."""
        return self.examples[VISIBLE:]


@dataclass(frozen=True)
class Galleries:
    """Galleries next to each other where the page is wide enough."""

    galleries: Sequence[Gallery]


@dataclass(frozen=True)
class Listing:
    """A long text of which only the summary is visible until it is opened."""

    summary: str
    text: str


@dataclass(frozen=True)
class Folded:
    """Tables and notes of which only the summary is visible until they are opened."""

    summary: str
    parts: Sequence[Note | Table]


Part = Note | Table | Figures | Galleries | Listing | Folded


@dataclass(frozen=True)
class Section:
    """A titled section; `id` is its address on the page."""

    title: str
    id: str
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class KeyNumber:
    """A number at the top of a page: its name, its value, a remark below it, and a drawing of it, if there is one."""

    name: str
    value: str
    remark: str
    meter: Markup | None = None


@dataclass(frozen=True)
class Page:
    """A page, ready to be rendered.

    subtitle : what the page is of, in a line below the title.
    notes : what must be read before any number.
    summary : sentences that can be read out.
    cautions : what to bear in mind when the summary is used.
    picture : the most telling chart, drawn next to the summary.
    key : the most important numbers.
    """

    title: str
    subtitle: str
    notes: Sequence[Note] = ()
    summary: Sequence[str] = ()
    cautions: Sequence[Note] = ()
    picture: Figure | None = None
    key: Sequence[KeyNumber] = ()
    sections: Sequence[Section] = field(default_factory=list)
    footer: str = ""
