"""Several records to one page: methods beside each other, and which are worth their cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from advcore.errors import counted
from advcore.reporting import svg
from advcore.reporting.charts import Frame, frame
from advcore.reporting.compare import Block, Run, blocks, different_data, grouped, methods, readable, repeated, robust
from advcore.reporting.front import Method, draw, front
from advcore.reporting.parts import Figure, Figures, Note, Page, Section, Table
from advcore.reporting.record import RunRecord
from advcore.reporting.run_page import known
from advcore.reporting.scales import span
from advcore.reporting.tables import attack_label, comparison, percent


def runs_page(name: str, runs: Sequence[Run]) -> Page:
    """`name`: of the folder."""
    runs, twice = _once(runs)
    groups = grouped(runs)
    shown = [run for own in groups.values() for run in own]
    finished = sum(run.record.finished for run in shown)
    found = blocks(groups)
    sections = []
    for i, block in enumerate(found):
        several = len(found) > 1
        title = block.title if several else "Robust accuracy over cost"
        sections.append(Section(title, f"front-{i}", known(lambda block=block: _front(block))))
    if not found:
        note = Note("No run is finished yet, so there is nothing to compare.", "missing")
        sections.append(Section("Robust accuracy over cost", "front-0", [note]))
    sections.append(Section("Learning curves", "learning", known(lambda: _curves(groups))))
    sections.append(Section("Flags and events", "flags", known(lambda: _flags(groups))))
    sections.append(Section("Runs", "runs", [*twice, *known(lambda: _runs(groups, runs))]))
    return Page(
        title=name,
        subtitle=f"{counted(len(groups), 'method')}, {counted(len(shown), 'run')}, {finished} of them finished.",
        notes=[*_unfinished(shown, runs), *_again(groups), *known(lambda: _different_data(groups), [])],
        sections=sections,
        footer="Made by advcore report from the records in this folder.",
    )


def _once(runs: Sequence[Run]) -> tuple[list[Run], list[Note]]:
    """Without records that are there twice, such as a run's and the copy that a suite keeps of it."""
    kept: list[Run] = []
    twice = []
    for run in runs:
        same = next((one for one in kept if run.record and one.record == run.record), None)
        if same is None:
            kept.append(run)
        else:
            twice.append(f"{run.where} (as {same.where})")
            kept[kept.index(same)] = replace(same, link=same.link or run.link)
    return kept, [Note(f"There twice, and counted once: {_few(twice)}.")] if twice else []


def _unfinished(shown: Sequence[Run], runs: Sequence[Run]) -> list[Note]:
    open_ones = [run.where for run in shown if not run.record.finished]
    broken = [run.where for run in runs if run.problem]
    notes = []
    if open_ones:
        notes.append(Note(f"Not finished, and in no average: {_few(open_ones)}."))
    if broken:
        notes.append(Note(f"Without a record that can be read: {_few(broken)}.", "warning"))
    return notes


def _again(groups: Mapping[str, Sequence[Run]]) -> list[Note]:
    pairs = [pair for own in groups.values() for pair in repeated(own).items()]
    told = _few([f"{run} (as {first})" for run, first in pairs])
    return [Note(f"Of a method and a seed that are there already, and in no average: {told}.")] if pairs else []


def _different_data(groups: Mapping[str, Sequence[Run]]) -> list[Note]:
    records = {name: [run.record for run in own] for name, own in groups.items()}
    return [Note(line, "warning") for line in different_data(records)]


def _few(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


# ---- the picture that matters ----

NARROW, WIDE = (340.0, 340.0), (960.0, 460.0)


def _front(block: Block) -> list[Any]:
    points = methods(block.groups)
    best = [one.name for one in front(points)]
    several = any(len(one.robust) > 1 for one in points)
    first = next(iter(block.groups.values()))[0]
    attacks = [attack_label(one) for one in first.final["last"]["attacks"]]
    title = f"robust accuracy, % ({'all attacks' if len(attacks) > 1 else attacks[0] if attacks else 'clean'})"
    caption = "Robust accuracy over relative cost, checkpoint last; full training costs 1. "
    caption += "Points are means over seeds, bars their sample deviation. " if several else ""
    caption += "Dashed: the Pareto front, above and left of which no method lies. Numbers are the table's."
    narrow, wide = (draw(points, title, size) for size in (NARROW, WIDE))
    records = [record for own in block.groups.values() for record in own]
    devices = dict.fromkeys(str(one.environment.get("device", "not recorded")) for one in records)
    parts: list[Any] = [Note(f"{block.told}; device {' and '.join(devices)}.")]
    parts.append(Figures([Figure(caption, narrow, wide)]))
    parts.append(Note(f"On the front, by cost: {', '.join(best)}."))
    for which in ("last", "best"):
        if all(which in record.final for records in block.groups.values() for record in records):
            parts += known(lambda which=which: [_table(block, points, which)])
    return parts + _references(block)


def _table(block: Block, points: Sequence[Method], which: str) -> Table:
    best = {one.name for one in front(methods(block.groups, which))}
    header, rows = comparison({one.name: block.groups[one.name] for one in points}, which)
    cost = header.index("relative cost")  # the front goes by more digits than two
    rows = [(*row[:cost], f"{one.cost:.3f}", *row[cost + 1 :]) for row, one in zip(rows, points, strict=True)]
    told = [(f"{i}", row[0], "front" if row[0] in best else "", *row[1:]) for i, row in enumerate(rows, 1)]
    caption = f"Checkpoint {which}: means ± sample deviations over seeds; gradient errors are means over selections"
    return Table(caption, ("#", header[0], "", *header[1:]), told, words=3)


def _references(block: Block) -> list[Note]:
    """Relative costs must be relative to one thing."""
    found = {record.reference.get("units") for own in block.groups.values() for record in own}
    if len(found) < 2:
        return []
    told = ", ".join("none" if units is None else f"{units:,}" for units in sorted(found, key=lambda v: v or 0))
    return [Note(f"Costs here are relative to different references ({told} passes) and cannot be compared.", "flag")]


# ---- learning curves ----

SMALL = (170.0, 130.0)


def _curves(groups: Mapping[str, Sequence[Run]]) -> list[Any]:
    """One small picture a method: its runs in colour, all others in grey."""
    found = {name: [line for run in runs if len(line := _probes(run)) > 1] for name, runs in groups.items()}
    found = {name: lines for name, lines in found.items() if lines}
    silent = [name for name in groups if name not in found]
    notes = [Note(f"Without validation accuracies over epochs: {_few(silent)}.", "missing")] if silent else []
    if not found:
        return notes
    inside = _small_frame([line for lines in found.values() for line in lines])
    others = svg.Markup('<g id="all-curves">{}</g>').format(
        svg.Markup("").join(
            svg.path([inside.at(*p) for p in line], "others") for lines in found.values() for line in lines
        )
    )
    figures = [
        Figure(name, _small(inside, name, lines, others if i == 0 else svg.Markup('<use href="#all-curves"/>')))
        for i, (name, lines) in enumerate(found.items())
    ]
    about = (
        "Robust accuracy (clean where nothing is attacked) on validation examples over epochs; grey: all other methods."
    )
    return [Note(about), Figures(figures, small=True), *notes]


def _probes(run: Run) -> list[svg.Point]:
    """Nothing for a record that is odd: it must not take the others' curves away."""

    def points() -> list[svg.Point]:
        told = [
            (one["epoch"] + 1, one.get("robust") if one.get("robust") is not None else one.get("clean"))
            for one in run.record.epochs
        ]
        return [(x, 100.0 * y) for x, y in told if y is not None]

    return known(points, [])


def _small_frame(lines: Sequence[Sequence[svg.Point]]) -> Frame:
    most = max(x for line in lines for x, _ in line)
    heights = span((y for line in lines for _, y in line), zero=True, top=100.0)
    inside = frame((0, max(1, most)), heights, size=SMALL, right=10)
    return replace(inside, y=replace(inside.y, start=SMALL[1] - 20, end=8))


def _small(inside: Frame, name: str, lines: Sequence[Sequence[svg.Point]], others: svg.Markup) -> svg.Markup:
    drawn = inside.drawn("", "")
    own = [svg.path([inside.at(*point) for point in line], "s1") for line in lines]
    ends = ", ".join(f"{line[-1][1]:.1f} %" for line in lines)
    return svg.picture(*SMALL, [*drawn, others, *own], f"{name}: validation accuracy ends at {ends}.")


# ---- what is wrong, and all runs ----


def _flags(groups: Mapping[str, Sequence[Run]]) -> list[Any]:
    flags: dict[tuple[str, str], list[str]] = {}
    events: dict[tuple[str, str], list[str]] = {}
    for name, runs in groups.items():
        for run in runs:
            for flag in known(lambda run=run: _own_flags(run.record), ["its flags cannot be read"]):
                flags.setdefault((name, flag), []).append(_seed(run))
            for one in run.record.events:
                events.setdefault((name, str(one.get("event", one))), []).append(
                    f"{_seed(run)} at {one.get('epoch', '?')}"
                )
    parts: list[Any] = []
    for caption, found in (("Flags of evaluations", flags), ("Events of runs", events)):
        if found:
            rows = [(name, what, ", ".join(where)) for (name, what), where in found.items()]
            what = "seeds" if found is flags else "seed and epoch"
            parts.append(Table(caption, ("method", "what", what), rows, words=3))
        else:
            parts.append(Note(f"{caption}: none."))
    return parts


def _own_flags(record: RunRecord) -> list[str]:
    return list(dict.fromkeys(str(flag) for found in record.final.values() for flag in found.get("flags", ())))


def _seed(run: Run) -> str:
    return str(run.record.config.get("seed", "?"))


def _runs(groups: Mapping[str, Sequence[Run]], runs: Sequence[Run]) -> list[Any]:
    rows, links = [], []
    for name, own in groups.items():
        for run in own:
            rows.append((run.where, name, _seed(run), *_outcome(run.record)))
            links.append(run.link)
    for run in runs:
        if run.problem:
            rows.append((run.where, "–", "–", run.problem, "–", "–", "–"))
            links.append("")
    header = ("run", "method", "seed", "state", "robust, %", "cost", "seconds")
    note = (
        [] if any(links) else [Note("No run here has a report of its own; `advcore report RUN` makes one.", "missing")]
    )
    return [*note, Table("All runs; linked where they have a report", header, rows, words=4, links=links)]


def _outcome(record: RunRecord) -> tuple[str, ...]:
    spent = f"{record.relative_cost:.3f}", f"{record.seconds:,.0f}"
    if not record.finished:
        return f"not finished, epochs done: {len(record.epochs)}", "–", *spent
    if not readable(record):
        return "finished, in no average: its accuracies cannot be read", "–", *spent
    return "finished", percent(robust(record) / 100), *spent
