"""The page of several runs: it compares their methods, and shows which are worth their cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from operator import attrgetter

from markupsafe import Markup

from advcore.errors import format_count
from advcore.reporting import (
    compare,
    comparison,
    costs,
    front,
    learning_parts,
    scales,
    spent,
    svg,
    tables,
    titles,
    verdicts,
)
from advcore.reporting.frame import Frame, make_frame
from advcore.reporting.lenient import build_or_note, read_or
from advcore.reporting.parts import (
    Figure,
    Figures,
    Folded,
    Note,
    Page,
    Part,
    Section,
    Table,
    drop_if_empty,
    note_if,
    table_or_note,
)
from advcore.reporting.record import RunRecord

# Runs by the name of their method; each has a record.
Methods = Mapping[str, Sequence[compare.Run]]


def build_runs_page(name: str, runs: Sequence[compare.Run | compare.BrokenRun]) -> Page:
    """Return the page of the runs in a folder of this name."""
    broken = [run for run in runs if isinstance(run, compare.BrokenRun)]
    originals, copies = _drop_copies([run for run in runs if isinstance(run, compare.Run)])
    methods = _write_titles(compare.group_runs(originals))
    blocks = compare.split_into_blocks(methods)
    finished = sum(run.record.finished for run in originals)
    return Page(
        title=titles.write_title(name),
        subtitle=f"{format_count(len(methods), 'method')}, {format_count(len(originals), 'run')}, "
        f"{finished} of them finished.",
        notes=_build_notes(methods, broken),
        summary=list(chain.from_iterable(read_or([], _summarize_block, block) for block in blocks)),
        cautions=list(chain.from_iterable(read_or([], comparison.list_cautions, block.groups) for block in blocks[:1])),
        sections=[
            *_build_fronts(blocks),
            Section("Learning curves", "learning", build_or_note(_build_curves, methods)),
            Section("Flags and events", "flags", build_or_note(_build_flags, methods)),
            Section("Runs", "runs", [*copies, *build_or_note(_build_runs, methods, broken)]),
        ],
        footer="Made by advcore report from the records in this folder.",
    )


def _write_titles(methods: Methods) -> Methods:
    names = titles.write_titles(methods)
    return {names[name]: runs for name, runs in methods.items()}


def _summarize_block(block: compare.Block) -> list[str]:
    return comparison.write_sentences(block.groups, comparison.find_reference(block.groups))


# ---- notes ----


def _drop_copies(runs: Sequence[compare.Run]) -> tuple[list[compare.Run], list[Note]]:
    """Return the runs without those whose record equals an earlier one, and a note on what was left out.

    A suite, for instance, keeps a copy of the record of each of its runs.
    """
    originals: list[compare.Run] = []
    copies = []
    for run in runs:
        original = next((other for other in originals if other.record == run.record), None)
        if original is None:
            originals.append(run)
        else:
            copies.append(f"{run.where} (as {original.where})")
            originals[originals.index(original)] = replace(original, link=original.link or run.link)
    return originals, note_if(copies, f"Found twice, counted once: {_list_some(copies)}.")


def _build_notes(methods: Methods, broken: Sequence[compare.BrokenRun]) -> list[Note]:
    unfinished = [run.where for run in chain.from_iterable(methods.values()) if not run.record.finished]
    unreadable = [run.where for run in broken]
    pairs = chain.from_iterable(compare.find_repeats(runs).items() for runs in methods.values())
    repeats = [f"{repeat} (as {first})" for repeat, first in pairs]
    return [
        *note_if(unfinished, f"Not finished, so left out of averages: {_list_some(unfinished)}."),
        *note_if(unreadable, f"Without a readable record: {_list_some(unreadable)}.", "warning"),
        *note_if(repeats, f"Repeats of a method and seed, left out of averages: {_list_some(repeats)}."),
        *read_or((), _note_data_differences, methods),
    ]


def _note_data_differences(methods: Methods) -> list[Note]:
    records = {name: list(map(attrgetter("record"), runs)) for name, runs in methods.items()}
    return [Note(line, "warning") for line in compare.find_data_differences(records)]


def _list_some(names: Sequence[str], most: int = 12) -> str:
    """List at most `most` names, and how many more there are."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])}, and {len(names) - most} more"


# ---- robust accuracy over cost ----


def _build_fronts(blocks: Sequence[compare.Block]) -> list[Section]:
    title = "Robust accuracy over cost"
    if not blocks:
        reason = "No run is finished yet, so there is nothing to compare."
        return [Section(title, "front-0", [Note(reason, "missing")])]
    return [
        Section(title if len(blocks) == 1 else block.title, f"front-{i}", build_or_note(_build_front, block))
        for i, block in enumerate(blocks)
    ]


def _build_front(block: compare.Block) -> list[Part]:
    methods = compare.summarize_methods(block.groups)
    records = tables.list_records(block.groups)
    devices = dict.fromkeys(str(record.environment.get("device", "not recorded")) for record in records)
    best = "; ".join(method.name for method in front.find_front(methods))
    parts: list[Part] = [
        Figures([comparison.draw_front(methods, records)]),
        Note(f"{block.conditions}; device {' and '.join(devices)}. {verdicts.describe_varied(block.groups)}"),
        Note(f"On the Pareto front, the cheapest first: {best}."),
    ]
    for which in ("last", "best"):
        if all(which in record.final for record in records):
            parts += build_or_note(_tabulate_methods, block, methods, which)
    reference = comparison.find_reference(block.groups) if len(methods) > 1 else None
    parts += map(Note, spent.explain_columns(block.groups, reference))
    return [*parts, *build_or_note(_tabulate_differences, block), *comparison.note_references(block.groups)]


def _tabulate_methods(block: compare.Block, methods: Sequence[front.Method], which: str) -> list[Part]:
    """Return a table of methods in the order of `methods`, and which of them are on the front of a checkpoint."""
    marks = {method.name: "front" for method in front.find_front(compare.summarize_methods(block.groups, which))}
    groups = {method.name: block.groups[method.name] for method in methods}
    against = block.groups.get(comparison.find_reference(block.groups), ()) if len(methods) > 1 else ()
    header, rows = tables.compare_methods(groups, which, against=against)
    column = header.index(costs.choose_unit(tables.list_records(groups)).title)
    table = []
    for number, (method, row) in enumerate(zip(methods, rows, strict=True), 1):
        cost = f"{method.cost:.3f}"  # the front is decided by more than the two digits of other tables
        table.append((f"{number}. {row[0]}", marks.get(row[0], ""), *row[1:column], cost, *row[column + 1 :]))
    means = "means ± sample standard deviations over seeds; gradient errors are means over selections"
    caption = f"Checkpoint {which}: {means}"
    entry = Table(caption, (header[0], "", *header[1:]), table, words=2)
    return [Folded(tables.BEST, [entry])] if which == "best" else [entry]


def _tabulate_differences(block: compare.Block) -> list[Part]:
    """Return the tested differences to the dearest method that trains on all data, of coresets also to random ones."""
    rows, note = verdicts.tabulate(block.groups, comparison.find_reference(block.groups))
    if not rows:
        return []
    return [Table("Differences in robust accuracy, checkpoint last", verdicts.HEADER, rows, words=2), Note(note)]


# ---- learning curves ----

# Width and height of the chart of a method.
SMALL = (170.0, 130.0)


def _build_curves(methods: Methods) -> list[Part]:
    """Return a small chart for each method: its runs in colour, those of all other methods in grey."""
    recorded = {name: _read_curves(runs) for name, runs in methods.items()}
    curves = {name: lines for name, lines in recorded.items() if lines}
    silent = [name for name in methods if name not in curves]
    notes = note_if(silent, f"Without validation accuracies over epochs: {_list_some(silent)}.", "missing")
    if not curves:
        return [*notes]
    lines = list(chain.from_iterable(curves.values()))
    frame = _lay_out_small(lines)
    grey = Markup("").join(_draw_curve(frame, line, "others") for line in lines)
    others = Markup('<g id="all-curves">{}</g>').format(grey)
    figures = []
    for name, lines in curves.items():
        figures.append(Figure(name, _draw_small(frame, name, lines, others)))
        others = Markup('<use href="#all-curves"/>')  # the first chart holds the curves, all others refer to them
    about = (
        "Robust accuracy (clean where nothing is attacked) on validation examples over epochs; grey: all other methods."
    )
    return [Note(about), Figures(figures, small=True), *notes]


def _read_curves(runs: Sequence[compare.Run]) -> list[Sequence[svg.Point]]:
    curves = (read_or((), learning_parts.read_accuracies, run.record) for run in runs)
    return [curve for curve in curves if len(curve) > 1]


def _lay_out_small(lines: Sequence[Sequence[svg.Point]]) -> Frame:
    """Return axes that show all lines, without room for titles."""
    points = list(chain.from_iterable(lines))
    heights = scales.choose_range((y for _, y in points), zero=True, top=100.0)
    frame = make_frame((0, max(1, *(x for x, _ in points))), heights, size=SMALL, right=10)
    return replace(frame, y=replace(frame.y, start=SMALL[1] - 20, end=8))


def _draw_small(frame: Frame, name: str, lines: Sequence[Sequence[svg.Point]], others: Markup) -> Markup:
    ends = ", ".join(f"{line[-1][1]:.1f} %" for line in lines)
    parts = [*frame.draw("", ""), others, *(_draw_curve(frame, line, "s1") for line in lines)]
    return svg.picture(SMALL, parts, f"{name}: validation accuracy ends at {ends}.")


def _draw_curve(frame: Frame, line: Sequence[svg.Point], css: str) -> Markup:
    return svg.path([frame.to_pixels(x, y) for x, y in line], css)


# ---- flags, events, and all runs ----


def _build_flags(methods: Methods) -> list[Part]:
    flags: dict[tuple[str, ...], list[str]] = {}
    events: dict[tuple[str, ...], list[str]] = {}
    for name, runs in methods.items():
        for run in runs:
            seed = _read_seed(run)
            for flag in read_or(["its flags cannot be read"], tables.list_run_flags, run.record):
                flags.setdefault((name, flag), []).append(seed)
            for entry in run.record.events:
                place = f"{seed} at {entry.get('epoch', '?')}"
                kind = str(entry.get("kind", ""))
                events.setdefault((name, kind, str(entry.get("event", entry))), []).append(place)
    return [
        _tabulate_places("Flags of evaluations", ("method", "flag", "seeds"), flags),
        _tabulate_places("Events of runs", ("method", "kind", "event", "seed and epoch"), events),
    ]


def _tabulate_places(caption: str, header: Sequence[str], places: Mapping[tuple[str, ...], Sequence[str]]) -> Part:
    """Return a table of what happened, and where: `places` by the cells before the last one."""
    rows = [(*cells, ", ".join(where)) for cells, where in places.items()]
    table = drop_if_empty(Table(caption, header, rows, words=len(header)), "kind")
    return table_or_note(table, f"{caption}: none.")


def _read_seed(run: compare.Run) -> str:
    return str(run.record.config.get("seed", "?"))


def _build_runs(methods: Methods, broken: Sequence[compare.BrokenRun]) -> list[Part]:
    rows: list[tables.Row] = []
    unit = costs.choose_unit([run.record for run in chain.from_iterable(methods.values())])
    for name, runs in methods.items():
        rows += [(run.where, name, _read_seed(run), *_describe_outcome(run.record, unit)) for run in runs]
    rows += [
        (run.where, tables.NOTHING, tables.NOTHING, run.problem, tables.NOTHING, tables.NOTHING, tables.NOTHING)
        for run in broken
    ]
    links = [run.link for run in chain.from_iterable(methods.values())] + [""] * len(broken)
    header = ("run", "method", "seed", "state", "robust, %", unit.title, "seconds in total")
    return [
        *note_if(not any(links), "No run here has its own report; `advcore report RUN` makes one.", "missing"),
        Folded(
            f"All {format_count(len(rows), 'run')}",
            [Table("All runs; linked where they have a report", header, rows, words=4, links=links)],
        ),
    ]


def _describe_outcome(record: RunRecord, unit: costs.Unit) -> tuple[str, str, str, str]:
    cost = read_or(None, unit.compare, record)
    cells = (tables.format_cell(cost, "{:.3f}"), f"{record.seconds:,.0f}")
    if not record.finished:
        return (f"not finished, epochs done: {len(record.epochs)}", tables.NOTHING, *cells)
    if not compare.is_readable(record):
        return ("finished, left out of averages: its accuracies cannot be read", tables.NOTHING, *cells)
    return ("finished", tables.format_percent(compare.robust_accuracy(record) / 100), *cells)
