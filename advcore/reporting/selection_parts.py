"""The parts of a run's page about its selections: errors, overlaps, weights and classes of its coresets."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain

from markupsafe import Markup

from advcore.reporting import charts, scales, tables
from advcore.reporting.parts import Figure, Figures, Folded, Note, Part, Table, note_if
from advcore.reporting.record import JsonObject, RunRecord

# Histograms are drawn of at most this many selections: the first, the last, and some between.
MOST_HISTOGRAMS = 6
# At most this many classes are drawn: those whose share changed most.
CLASSES = 24
# Errors are drawn on a logarithmic axis where the largest is more than this many times the smallest.
FAR = 5
_WHEN = "selected after this many epochs"


def build_selections(record: RunRecord) -> list[Part]:
    """Return charts of gradient errors and overlaps, and a table of all selections."""
    if not record.selections:
        reason = "this run trains on all data"
        if record.config.get("selection"):
            reason = "none yet"
        return [Note(f"No selection: {reason}.", "missing")]
    figures = [figure for figure in (_draw_errors(record), _draw_overlap(record)) if figure]
    unmeasured = not figures or record.selections[0].get("gradient_error") is None
    return [
        Figures(figures),
        *note_if(unmeasured, "No gradient error: this solver measures no gradients.", "missing"),
        *note_if(len(record.selections) < 2, "With one selection, there is no overlap to show.", "missing"),
        Folded("All numbers of the selections", [_tabulate_selections(record)]),
    ]


def _read_series(record: RunRecord, key: str, factor: float = 1.0) -> list[tuple[float, float]]:
    """Return the epoch of each selection, and what it holds under `key`, times `factor`."""
    return [(entry["epoch"], factor * entry[key]) for entry in record.selections if entry.get(key) is not None]


def _draw_errors(record: RunRecord) -> Figure | None:
    """Draw the gradient errors of coresets, as selected, as trained and under the full attack, and of random subsets.

    Returns None where no gradient was measured.
    """
    curves = (
        charts.Line("coreset", _read_series(record, "gradient_error"), 1, dots=True),
        charts.Line("random", _read_series(record, "gradient_error_random"), 2, dots=True, dash=True),
        charts.Line("as trained", _read_series(record, "gradient_error_trained"), 3, dots=True),
        charts.Line("full attack", _read_series(record, "gradient_error_full"), 4, dots=True, dash=True),
    )
    lines = {curve.name: curve for curve in curves if curve.points}
    if not lines:
        return None
    caption = (
        "Gradient error: the distance of the coreset's gradient from that of all data, relative to the length of the "
        "latter. Random: the mean of random subsets of the same size."
    )
    if "as trained" in lines:
        caption += " As trained: with the weights as the trainer rescales them."
    if "full attack" in lines:
        caption += " Full attack: under the attack of training."
    if len(record.selections) == 1:
        return charts.make_figure(caption, _draw_single_errors(lines))
    heights = [y for _, y in chain.from_iterable(line.points for line in lines.values())]
    log = min(heights) > 0 and max(heights) > FAR * min(heights)
    title = "gradient error, logarithmic" if log else "gradient error"
    alt = f"Gradient error by selection. {'; '.join(map(_list_values, lines.values()))}"
    axes = charts.Axes(_WHEN, title, zero=not log, log=log)
    return charts.make_figure(caption, partial(charts.draw_curves, list(lines.values()), axes, alt=alt))


def _draw_single_errors(lines: Mapping[str, charts.Line]) -> Callable[..., Markup]:
    """Draw the errors of a single selection as bars."""
    bars = []
    for name, line in lines.items():
        error = line.points[0][1]
        bars.append(charts.Bar(name, error, f"{error:.3f}", css=f"f{line.colour}"))
    return partial(charts.draw_bars, bars, alt=f"Gradient error: {'; '.join(map(_list_values, lines.values()))}")


def _list_values(line: charts.Line) -> str:
    return f"{line.name}: {', '.join(f'{y:.3f}' for _, y in line.points)}"


def _draw_overlap(record: RunRecord) -> Figure | None:
    points = _read_series(record, "overlap", 100)
    if not points:
        return None
    share = find_coreset_share(record)
    chance = [] if share is None else [(100 * share, "by chance")]
    caption = "Overlap: the share of the previous coreset that is also in the next one"
    return _draw_percentages(caption, charts.Line("kept", points, 1, dots=True), "overlap, %", chance=chance)


def _draw_percentages(
    caption: str, line: charts.Line, title: str, *, chance: Sequence[tuple[float, str]] = ()
) -> Figure:
    """Draw percentages by selection. chance : dotted horizontal lines, each a height and its name."""
    values = ", ".join(f"{y:.0f} %" for _, y in line.points)
    axes = charts.Axes(_WHEN, title, zero=True, top=100.0)
    draw = partial(charts.draw_curves, [line], axes, alt=f"{caption}: {values}", chance=chance)
    return charts.make_figure(f"{caption}.", draw)


def find_coreset_share(record: RunRecord) -> float | None:
    """Return the share of the data that a coreset holds: counted, or else as the settings say."""
    counts = record.data.get("class_counts")
    size = record.selections[-1].get("k")
    if counts and size:
        return size / sum(counts)
    return (record.config.get("selection") or {}).get("budget")


# Title, key in the record, and format of each column.
_COLUMNS = (
    ("at", "epoch", "{}"), ("solver", "solver", "{}"), ("examples", "k", "{:,}"),
    ("gradient error", "gradient_error", "{:.3f}"), ("random", "gradient_error_random", "{:.3f}"),
    ("as trained", "gradient_error_trained", "{:.3f}"), ("full attack", "gradient_error_full", "{:.3f}"),
    ("of held-out", "target_error", "{:.3f}"), ("age of rows", "row_age", "{:.2f}"),
    ("oldest", "row_age_max", "{}"), ("error of rows", "row_error", "{:.3f}"), ("overlap", "overlap", "{:.3f}"),
    ("sum of weights / N", "weight_sum", "{:.3f}"),
    ("effective size / K", "effective_sample_size", "{:.3f}"), ("filled", "filled", "{}"), ("rounds", "rounds", "{}"),
    ("passes", "passes", "{:,}"),
)  # fmt: skip


def _tabulate_selections(record: RunRecord) -> Table:
    """Return a table of the selections. Columns for which no selection has a value are left out."""
    columns: dict[str, list[str]] = {}
    for title, key, form in _COLUMNS:
        columns[title] = [tables.format_cell(entry.get(key), form) for entry in record.selections]
    seconds = [entry.get("seconds") or {} for entry in record.selections]
    for phase in dict.fromkeys(chain.from_iterable(seconds)):
        columns[f"{phase}, s"] = [tables.format_cell(entry.get(phase), "{:.2f}") for entry in seconds]
    columns = {title: cells for title, cells in columns.items() if set(cells) != {tables.NOTHING}}
    return Table("Selections", list(columns), list(zip(*columns.values(), strict=True)), words=2)


# ---- weights ----


def build_weights(record: RunRecord, weights: Mapping[int, Sequence[float]], missing: Mapping[int, str]) -> list[Part]:
    """Return charts of the weights of coresets.

    weights : of each coreset that could be read, by the epoch of its selection.
    missing : why a coreset could not be read, by epoch.
    """
    if not record.selections:
        return [Note("No selection, so no weights: all examples count equally.", "missing")]
    figures = []
    sizes = charts.Line("", _read_series(record, "effective_sample_size", 100), 1, dots=True)
    if len(sizes.points) > 1:
        caption = "Effective sample size, (Σw)² / (K Σw²): 100 % where all weights are equal"
        figures.append(_draw_percentages(caption, sizes, "effective size, %"))
    notes = []
    for reason in dict.fromkeys(missing.values()):
        places = ", ".join(str(epoch) for epoch, why in missing.items() if why == reason)
        notes.append(Note(f"No weights of the selection at {places}: {reason}.", "missing"))
    selections = {entry["epoch"]: entry for entry in record.selections}
    epochs = pick_evenly(sorted(set(weights) & set(selections)), MOST_HISTOGRAMS)
    figures += [_draw_weights(epoch, weights[epoch], selections[epoch]) for epoch in epochs]
    if len(epochs) + len(missing) < len(selections):
        notes.append(Note(f"Histograms of {len(epochs)} of {len(selections)} selections."))
    return [Figures(figures), *notes]


def _draw_weights(epoch: int, weights: Sequence[float], selection: JsonObject) -> Figure:
    low, high = map(scales.format_number, (min(weights), max(weights)))
    caption = f"Weights of the selection at {epoch}: {low} to {high}"
    effective = selection.get("effective_sample_size")
    if effective is not None:
        caption += f"; effective sample size {100 * effective:.1f} % of {len(weights):,}"
    alt = f"{caption}."
    draw = partial(charts.draw_histogram, weights, x_title="weight (dotted: mean)", y_title="examples", alt=alt)
    return charts.make_figure(alt, draw)


def pick_evenly(items: Sequence[int], most: int) -> list[int]:
    """Return at most `most` items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


# ---- classes ----


def build_classes(record: RunRecord) -> list[Part]:
    """Return a chart of the share of each class in the data and in the coresets, and the classes a coreset lacks."""
    counts = [entry["class_counts"] for entry in record.selections if entry.get("class_counts")]
    data_counts = record.data.get("class_counts", [])
    if not counts and not data_counts:
        return [Note("No selection, and the record does not say how many examples a class has.", "missing")]
    size = max(map(len, [*counts, data_counts]))
    data = data_counts and _to_shares(data_counts, size)
    coresets = [_to_shares(entry, size) for entry in counts]
    classes = _choose_classes(data, coresets, size)
    caption = "Lines: the coresets, the last one thick." if coresets else "Nothing is selected."
    if data:
        caption = f"Grey bars: the training data. {caption}"
    lost = [str(i) for i, share in enumerate(data) if coresets and share and not coresets[-1][i]]
    if len(lost) > 20:
        lost[20:] = ["..."]
    draw = partial(
        charts.draw_class_shares,
        [str(i) for i in classes],
        data and _pick(data, classes),
        [_pick(shares, classes) for shares in coresets],
        alt="Shares by class, in %: " + "; ".join(_describe_class(i, data, coresets) for i in classes),
    )
    return [
        Figures([charts.make_figure(caption, draw)]),
        *note_if(not data, "The record does not say how many examples a class has in the data.", "missing"),
        *note_if(
            len(classes) < size,
            f"{len(classes)} of {size} classes, those whose share the last coreset changed most.",
        ),
        *note_if(lost, f"Classes without an example in the last coreset: {', '.join(lost)}."),
    ]


def _to_shares(counts: Sequence[int], size: int) -> list[float]:
    """Return the share of each of `size` classes, in percent; classes that are not counted have none."""
    total = sum(counts) or 1
    return [100 * count / total for count in counts] + [0.0] * (size - len(counts))


def _choose_classes(data: Sequence[float], coresets: Sequence[Sequence[float]], size: int) -> list[int]:
    """Return the classes to draw: all, or those whose share differs most between the data and the last coreset."""
    if size <= CLASSES:
        return list(range(size))
    last = [data, *coresets][-1]
    before = data or [100 / size] * size
    changes = [abs(share - earlier) for share, earlier in zip(last, before, strict=True)]
    return sorted(sorted(range(size), key=changes.__getitem__, reverse=True)[:CLASSES])


def _pick(shares: Sequence[float], classes: Sequence[int]) -> list[float]:
    return [shares[i] for i in classes]


def _describe_class(i: int, data: Sequence[float], coresets: Sequence[Sequence[float]]) -> str:
    shares = []
    if data:
        shares.append(f"data {data[i]:.1f}")
    if coresets:
        shares.append(f"last coreset {coresets[-1][i]:.1f}")
    return f"class {i}: {', '.join(shares)}"
