"""A table in the forms that papers, spreadsheets and browsers take; pure."""

import csv
import html
import io
from collections.abc import Iterable, Sequence

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


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --rule: #c9ccd1; --soft: #f3f4f6; --warn: #8a3b00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e7ea; --paper: #16181b; --rule: #43474e; --soft: #202328; --warn: #ffb37a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; overflow-wrap: break-word; }
.scroll { overflow-x: auto; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { border-bottom-width: 2px; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tbody tr:nth-child(even) { background: var(--soft); }
td.wide { color: var(--warn); }
ul { padding-left: 1.1rem; font-size: .9rem; }
@media (max-width: 52rem) {
  body { overflow-wrap: anywhere; }
  .scroll { overflow-x: visible; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, tr, td { display: block; width: 100%; }
  tr { border-bottom: 2px solid var(--rule); padding: .3rem 0; }
  td, td:first-child { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .12rem .4rem;
    text-align: right; }
  td:first-child { font-weight: 600; text-align: left; }
  td[data-label]::before { content: attr(data-label); text-align: left; font-weight: 400; opacity: .75; }
}
"""


def page(title: str, tables: Sequence[Table]) -> str:
    """One HTML file that needs no other: light and dark, each row a block of its own on a narrow screen."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    parts = [f'<!doctype html><html lang="en"><head>{head}<title>{html.escape(title)}</title>']
    parts += [f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>", *map(_html, tables)]
    return "\n".join([*parts, "</body></html>", ""])


def _html(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.header)
    rows = "\n".join(_html_row(row, table.header) for row in table.rows)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    body = f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    return f"<h2>{html.escape(table.caption)}</h2>\n{body}\n<ul>{notes}</ul>"


def _html_row(row: Row, header: Row) -> str:
    if len(row) < len(header):
        return f'<tr><td class="wide" colspan="{len(header)}">{html.escape(row[0])}</td></tr>'
    labels = ["", *(f' data-label="{html.escape(name)}"' for name in header[1:])]
    return (
        "<tr>" + "".join(f"<td{label}>{_whole(cell)}</td>" for label, cell in zip(labels, row, strict=True)) + "</tr>"
    )


def _whole(cell: str) -> str:
    """A number and its spread stay on one line."""
    return html.escape(cell).replace(" ± ", "&nbsp;±&nbsp;")
