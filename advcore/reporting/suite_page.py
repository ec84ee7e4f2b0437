"""A suite's tables as a page."""

from collections.abc import Sequence

from advcore.reporting import parts
from advcore.reporting.parts import Note, Page, Section
from advcore.reporting.suite import Table


def suite_page(title: str, tables: Sequence[Table]) -> Page:
    """A section a table, its notes below it."""
    return Page(
        title,
        "Methods beside what one would do instead.",
        sections=[Section(_heading(one, title), f"table-{i}", _parts(one)) for i, one in enumerate(tables, 1)],
        footer="Made by advcore bench from the records in this folder.",
    )


def _heading(table: Table, title: str) -> str:
    """The caption, without the page's title before it."""
    text = table.caption.removeprefix(f"{title}: ")
    return text[:1].upper() + text[1:]


def _parts(table: Table) -> list:
    return [parts.Table(table.caption, table.header, table.rows), *map(Note, table.notes)]
