"""The tables of a suite as a page."""

from collections.abc import Sequence

from advcore.reporting import parts
from advcore.reporting.parts import Note, Page, Part, Section
from advcore.reporting.suite import Table


def build_suite_page(title: str, tables: Sequence[Table]) -> Page:
    """Return a page with one section per table, which holds the table and its notes."""
    return Page(
        title,
        "Methods beside what one would do instead.",
        sections=[_build_section(table, title, f"table-{i}") for i, table in enumerate(tables, 1)],
        footer="Made by advcore bench from the records in this folder.",
    )


def _build_section(table: Table, title: str, address: str) -> Section:
    """Return the section of a table, whose heading is the caption without the title of the page."""
    heading = table.caption.removeprefix(f"{title}: ")
    contents: list[Part] = [parts.Table(table.caption, table.header, table.rows), *map(Note, table.notes)]
    return Section(heading[:1].upper() + heading[1:], address, contents)
