"""Tables in the formats of papers and spreadsheets; pure functions."""

import csv
import io
from collections.abc import Iterable

from advcore.reporting.suite import Table
from advcore.reporting.tables import Row

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "§": r"\S{}",
    "¶": r"\P{}",
    "‖": r"$\Vert$",
}


def escape_latex(text: str) -> str:
    """Escape a text so that LaTeX typesets it as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_latex(table: Table) -> str:
    """Return a `table` environment for the package booktabs (`\\usepackage{booktabs}`), with notes in small print."""
    width = len(table.header)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(table.caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
            r"\toprule",
            _format_latex_row(table.header, width),
            r"\midrule",
            *(_format_latex_row(row, width) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {escape_latex(note)}" for note in table.notes),
            r"\end{table}",
            "",
        ]
    )


def _format_latex_row(row: Row, width: int) -> str:
    """Return a row of a table with `width` columns. A row with fewer cells is one cell that spans all columns."""
    cells = [escape_latex(cell) for cell in row]
    if len(row) < width:
        return rf"\multicolumn{{{width}}}{{p{{0.9\linewidth}}}}{{{cells[0]}}} \\"
    if cells[0].startswith(("[", "*")):  # the \\ of the row above would read it as its own argument
        cells[0] = f"{{}}{cells[0]}"
    return " & ".join(cells) + r" \\"


def to_csv(header: Row, rows: Iterable[Row]) -> str:
    """Return a table as CSV (RFC 4180), with a header."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\r\n").writerows([header, *rows])
    return file.getvalue()
