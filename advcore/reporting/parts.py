"""What a page is made of: sections, and in them notes, tables, pictures, images and folded texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Note:
    """A line of text; `kind`: "plain", "warning", "flag" (of numbers), or "missing" (what is not there)."""

    text: str
    kind: str = "plain"
    part: ClassVar[str] = "note"


@dataclass(frozen=True)
class Table:
    """`words` columns stand to the left, the others, which are numbers, to the right; a row of one cell spans them all.
    links : address by row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    links: Sequence[str] = ()
    part: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A picture and its caption; `wide` is the same drawn for a broad page."""

    caption: str
    picture: Markup
    wide: Markup | None = None


@dataclass(frozen=True)
class Figures:
    """Side by side where there is room; `small` ones more of them."""

    figures: Sequence[Figure]
    small: bool = False
    part: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Shown:
    """An example: its images (alternative text, data URI), and what is said of it."""

    images: Sequence[tuple[str, str]]
    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    title: str
    shown: Sequence[Shown]
    part: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Listing:
    """A text that is folded away."""

    summary: str
    text: str
    part: ClassVar[str] = "listing"


@dataclass(frozen=True)
class Section:
    """`id` is its address on the page."""

    title: str
    id: str
    parts: Sequence[Any] = ()


@dataclass(frozen=True)
class Page:
    """key: what matters most, as (name, value, what more there is to say)."""

    title: str
    subtitle: str
    key: Sequence[tuple[str, str, str]] = ()
    notes: Sequence[Note] = ()
    sections: Sequence[Section] = field(default_factory=list)
    footer: str = ""
