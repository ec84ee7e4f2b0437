"""The page of a suite: what was compared, the Pareto picture, the tables, and notes on them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, count

from advcore.errors import format_count
from advcore.reporting import compare, comparison, front, parts, tables
from advcore.reporting.lenient import build_or_note, read_or
from advcore.reporting.suite import Results, Table

_FRONT = "Robust accuracy over cost"
# The captions of tables on the page, where their own would repeat the heading.
_CAPTIONS = {
    "checkpoint last": "Accuracy and cost of each method after its last epoch",
    "checkpoint best": "Accuracy and cost of each method in its best epoch",
    "differences, checkpoint last": "Differences in robust accuracy after the last epoch",
}


def build_suite_page(title: str, entries: Sequence[Table], results: Results) -> parts.Page:
    """Return the page of a suite.

    entries : its tables, as `suite.build_tables` returns them from the same results.
    """
    blocks = read_or([], _split_into_blocks, results)
    shared = _find_shared_notes(entries)
    groups = results.groups()
    names = [method for method in results.methods() if method in groups]
    sections = [*_build_fronts(blocks, names), *(_build_section(table, title, shared) for table in entries)]
    if shared:
        sections.append(parts.Section("Notes on the tables", "notes", list(map(parts.Note, shared))))
    return parts.Page(
        title,
        _count_runs(results),
        summary=list(chain.from_iterable(read_or([], _summarize_block, block, results) for block in blocks)),
        cautions=[*_note_unfinished(results), *read_or([], _list_cautions, results)],
        sections=sections,
        footer="Made by advcore bench from the records in this folder.",
    )


def _split_into_blocks(results: Results) -> list[compare.Block]:
    runs = {
        method: [compare.Run(f"{method}-s{i}", record) for i, record in enumerate(records)]
        for method, records in results.groups().items()
    }
    return compare.split_into_blocks(runs)


def _summarize_block(block: compare.Block, results: Results) -> list[str]:
    return comparison.write_sentences(block.groups, results.reference or "")


def _count_runs(results: Results) -> str:
    done = sum(entry.status == "done" for entry in results.entries)
    runs = format_count(len(results.entries), "run")
    return f"{format_count(len(results.methods()), 'method')}, {runs}, {done} of them finished."


def _note_unfinished(results: Results) -> list[parts.Note]:
    states = Counter(entry.status for entry in results.entries)
    text = " and ".join(f"{states[state]} {state}" for state in ("failed", "missing") if states[state])
    return parts.note_if(text, f"Runs without a result: {text}. Their methods have fewer seeds, or none.", "warning")


def _list_cautions(results: Results) -> list[parts.Note]:
    return comparison.list_cautions(results.groups()) if results.groups() else []


# ---- sections ----


def _build_fronts(blocks: Sequence[compare.Block], names: Sequence[str]) -> list[parts.Section]:
    """Return a section with the Pareto picture of each block of methods that can be compared.

    names : of all methods, in the order of the tables, which number them.
    """
    titles = [_FRONT] if len(blocks) == 1 else [f"{_FRONT}: {block.title}" for block in blocks]
    return [
        parts.Section(title, f"front-{i}", build_or_note(_draw_block, block, names))
        for title, block, i in zip(titles, blocks, count(), strict=False)
    ]


def _draw_block(block: compare.Block, names: Sequence[str]) -> list[parts.Part]:
    methods = compare.summarize_methods(block.groups)
    numbers = [names.index(method.name) + 1 for method in methods]
    best = "; ".join(method.name for method in front.find_front(methods))
    return [
        parts.Figures([comparison.draw_front(methods, tables.list_records(block.groups), numbers)]),
        parts.Note(f"On the Pareto front, the cheapest first: {best}."),
    ]


def _find_shared_notes(entries: Sequence[Table]) -> list[str]:
    """Return the notes that several tables have; they stand once, below all of them."""
    counts = Counter(chain.from_iterable(table.notes for table in entries))
    return [note for note, times in counts.items() if times > 1]


def _build_section(table: Table, title: str, shared: Sequence[str]) -> parts.Section:
    """Return the section of a table, whose heading is the caption without the title of the page.

    The table of the best checkpoint is folded: the picture and the differences are of the last one.
    """
    heading = table.caption.removeprefix(f"{title}: ")
    address = "-".join(heading.replace(",", "").split())
    notes = [parts.Note(note) for note in table.notes if note not in shared]
    content: list[parts.Table | parts.Note] = [replace(_number_rows(table), caption=_CAPTIONS.get(heading, heading))]
    content += notes
    if heading == "checkpoint best":
        return parts.Section("Checkpoint best", address, [parts.Folded(tables.BEST, content)])
    return parts.Section(heading[:1].upper() + heading[1:], address, content)


def _number_rows(table: Table) -> Table:
    """Return the table of a checkpoint with the number of each method, by which the picture names it."""
    if list(table.header[:2]) != ["method", "seeds"]:
        return table
    numbers = count(1)
    rows = [row if len(row) < len(table.header) else (f"{next(numbers)}. {row[0]}", *row[1:]) for row in table.rows]
    return replace(table, rows=rows)
