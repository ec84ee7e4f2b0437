"""A table in the forms that papers and spreadsheets take; pure."""

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


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(table: Table) -> str:
    """A `table` environment for booktabs (`\\usepackage{booktabs}`), notes below it in small print."""
    width = len(table.header)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(table.caption)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\toprule", _latex_row(table.header, width), r"\midrule"]
    lines += [_latex_row(row, width) for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {latex_text(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_row(row: Row, width: int) -> str:
    cells = [latex_text(cell) for cell in row]
    if len(row) < width:
        return rf"\multicolumn{{{width}}}{{p{{0.9\linewidth}}}}{{{cells[0]}}} \\"
    cells[0] = f"{{}}{cells[0]}" if cells[0][:1] in ("[", "*") else cells[0]  # \\ would take them as its own
    return " & ".join(cells) + r" \\"


def csv_text(header: Row, rows: Iterable[Row]) -> str:
    """RFC 4180, with a header."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerows([header, *rows])
    return file.getvalue()
