"""The parts of a run's page about its results: accuracies and costs."""

from functools import partial

from advcore.pixels import format_pixels
from advcore.reporting import charts, costs, tables
from advcore.reporting.parts import Figure, Figures, Folded, Note, Part, Table, note_if
from advcore.reporting.record import JsonObject, RunRecord

_ACCURACY_COLUMNS = (
    "checkpoint", "attack", "accuracy, %", "95 % interval", "n", "step size", "restarts", "start", "seed", "split",
)  # fmt: skip


def build_accuracies(record: RunRecord) -> list[Part]:
    """Return a chart and a table of the final accuracies, and whether their reliability was checked."""
    if not record.final:
        return [Note("No final accuracy yet: the test set is used only when the run ends.", "missing")]
    rows = []
    intervals = []
    is_same = record.final.get("best") == record.final.get("last")
    states = {which: entry for which, entry in record.final.items() if not (is_same and which == "best")}
    for colour, (which, evaluation) in enumerate(states.items(), 1):
        for name, entry in [("clean", evaluation["clean"]), *tables.list_robust_entries(evaluation, "all attacks")]:
            cells = (tables.format_percent(entry["accuracy"]), tables.format_bounds(entry), f"{entry['n']:,}")
            rows.append((which, name, *cells, *_describe_attack(entry)))
            value, low, high = (100 * share for share in (entry["accuracy"], *entry["interval"]))
            intervals.append(charts.Interval(f"{which}, {name}", value, low, high, colour))
    alt = "; ".join(f"{interval.name} {interval.value:.1f} %" for interval in intervals)
    alt = f"Accuracies with 95 % intervals: {alt}."
    draw = partial(charts.draw_intervals, intervals, x_title="accuracy, %", alt=alt)
    caption = f"Marks are accuracies on the test set, bars their 95 % intervals. {_describe_best(record, is_same)}"
    return [
        Figures([charts.make_figure(caption, draw)]),
        Table("Accuracies on the test set, 95 % Wilson intervals", _ACCURACY_COLUMNS, rows, words=2),
        *_describe_checks(record),
    ]


def _describe_attack(entry: JsonObject) -> tuple[str, ...]:
    """Return the cells that say how an attack was run, apart from its steps, which are in its name."""
    step_size = entry.get("step_size")
    if step_size is not None:
        step_size = format_pixels(step_size)
    values = (step_size, *map(entry.get, ("restarts", "start", "seed")))
    return (*map(tables.format_cell, values), entry.get("split", tables.NOTHING))


def _describe_best(record: RunRecord, is_same: bool) -> str:
    """Say which epoch is the best one. is_same : best and last have the same accuracies."""
    if record.best_epoch is None:
        return "Without validation examples there is no best epoch: best is last."
    rest = ", which is the last." if is_same else ". The test set is not used to choose it."
    return f"Epoch {record.best_epoch + 1} is the best on validation examples{rest}"


def _describe_checks(record: RunRecord) -> list[Part]:
    """Say whether the reliability of the numbers was checked. The flags themselves are at the top of the page."""
    if record.config.get("evaluation", {}).get("checks") is False:
        return [Note("The reliability checks were switched off.", "flag")]
    evaluations = record.final.values()
    if any(evaluation.get("flags") for evaluation in evaluations):
        return []
    if all("flags" in evaluation for evaluation in evaluations):
        return [Note("All reliability checks passed.")]
    return [Note("This record is older than the checks of robust accuracies.", "missing")]


# ---- costs ----


def build_costs(record: RunRecord) -> list[Part]:
    """Return charts of relative cost and seconds by phase, a table of passes, and what costs are relative to."""
    spent = {
        phase: entry
        for phase, entry in record.ledger.items()
        if entry["forward"] + entry["backward"] + entry["seconds"] > 0
    }
    if not spent:
        return [Note("No cost is counted yet.", "missing")]
    figures = []
    unit = costs.list_units(record)[0]
    has_reference = bool(record.reference.get(unit.of_reference))
    if has_reference:
        figures.append(_draw_costs(record, spent, unit))
    seconds = {phase: entry["seconds"] for phase, entry in spent.items() if entry["seconds"] >= 0.05}
    if seconds:
        figures.append(_draw_seconds(record, seconds))
    return [
        *note_if(not has_reference, "The record does not say what costs are relative to.", "missing"),
        Figures(figures),
        _describe_totals(record),
        Folded("Passes and seconds by phase", [_tabulate_spent(spent, unit)]),
    ]


def _tabulate_spent(spent: JsonObject, unit: costs.Unit) -> Table:
    """Return a table of passes and seconds by phase, and of compute where that is counted."""
    header = ["phase", "forward", "backward", "seconds"]
    rows = [
        [phase, f"{entry['forward']:,}", f"{entry['backward']:,}", f"{entry['seconds']:,.1f}"]
        for phase, entry in spent.items()
    ]
    if unit is costs.COMPUTE:
        header.insert(3, "compute")
        for row, entry in zip(rows, spent.values(), strict=True):
            row.insert(3, costs.COMPUTE.format(entry["flops"]))
    return Table("Passes (of one example each) and seconds by phase", header, rows)


def _draw_costs(record: RunRecord, spent: JsonObject, unit: costs.Unit) -> Figure:
    phases = {phase: entry for phase, entry in spent.items() if phase != "evaluation"}
    counts = {phase: unit.count_phase(entry) for phase, entry in phases.items()}
    shares = {phase: count / record.reference[unit.of_reference] for phase, count in counts.items()}
    rows = [charts.Bar(phase, cost, f"{cost:.3f}") for phase, cost in shares.items() if cost > 0]
    total = unit.compare(record)
    rows.append(charts.Bar("all", total, f"{total:.3f}", css="f0"))
    caption = f"Relative cost by phase: {unit.name}, relative to full training. Evaluation is not included."
    alt = f"{unit.title.capitalize()} by phase: {_list_bars(rows)}"
    return charts.make_figure(caption, partial(charts.draw_bars, rows, alt=alt, limits=[(1.0, "full training")]))


def _draw_seconds(record: RunRecord, seconds: dict[str, float]) -> Figure:
    colours = {"evaluation": "data"}
    rows = [
        charts.Bar(phase, value, f"{value:,.1f} s", css=colours.get(phase, "f1")) for phase, value in seconds.items()
    ]
    device = record.environment.get("device", "a device that the record does not name")
    draw = partial(charts.draw_bars, rows, alt=f"Seconds by phase: {_list_bars(rows)}")
    return charts.make_figure(f"Seconds by phase, on {device}.", draw)


def _list_bars(rows: list[charts.Bar]) -> str:
    return ", ".join(f"{row.name} {row.label}" for row in rows)


def _describe_totals(record: RunRecord) -> Note:
    text = f"The run took {record.seconds:,.0f} s in total"
    if record.peak_memory:
        text += f", and at most {record.peak_memory / 1e6:,.0f} MB of memory"
    counts = [
        unit.format(record.reference[unit.of_reference])
        for unit in costs.list_units(record)
        if unit.of_reference in record.reference
    ]
    if counts:
        full_training = f"{tables.describe_reference(record.reference)}, {', '.join(counts)}"
        text = f"Full training costs 1: {full_training}. {text}"
    return Note(f"{text}.")
