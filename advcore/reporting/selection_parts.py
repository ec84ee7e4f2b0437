"""What a run selected: errors, overlaps, weights and classes of its coresets."""

from collections.abc import Mapping, Sequence
from typing import Any

from advcore.reporting import charts
from advcore.reporting.charts import Line
from advcore.reporting.parts import Figure, Figures, Note, Table
from advcore.reporting.record import RunRecord
from advcore.reporting.scales import number

CHOSEN = 6
"""Selections of which histograms are drawn; of more, some between the first and the last."""
CLASSES = 24
"""Classes that are drawn; of more, those whose share changed most."""
FAR = 5
"""Times as large as the smallest: from there, errors are drawn by their logarithm."""
_WHEN = "selected after this many epochs"


def selections(record: RunRecord) -> list[Any]:
    if not record.selections:
        why = (
            "nothing is selected in this run: it trains on all data"
            if not record.config.get("selection")
            else "none yet"
        )
        return [Note(f"No selection: {why}.", "missing")]
    figures = [figure for figure in (_errors(record), _overlap(record)) if figure]
    notes = [] if figures and record.selections[0].get("gradient_error") is not None else [
        Note("No gradient error: this solver measures no gradients.", "missing")
    ]  # fmt: skip
    if len(record.selections) < 2:
        notes.append(Note("One selection so far: there is no overlap to show.", "missing"))
    return [Figures(figures), *notes, _selection_table(record)]


def _series(record: RunRecord, key: str, factor: float = 1.0) -> list[tuple[float, float]]:
    return [(one["epoch"], factor * one[key]) for one in record.selections if one.get(key) is not None]


def _errors(record: RunRecord) -> Figure | None:
    named = {
        "gradient_error": ("coreset", 1, False),
        "gradient_error_random": ("random", 2, True),
        "gradient_error_trained": ("as trained", 3, False),
        "gradient_error_full": ("full attack", 4, True),
    }
    lines = [
        Line(n, points, c, dots=True, dash=d) for key, (n, c, d) in named.items() if (points := _series(record, key))
    ]
    if not lines:
        return None
    alt = "Gradient error by selection. " + "; ".join(
        f"{one.name}: {', '.join(f'{y:.3f}' for _, y in one.points)}" for one in lines
    )
    caption = (
        "Gradient error: how far the coreset's gradient is from that of all data, over the latter's length; beside the "
        "mean of random subsets of the same size"
    )
    caption += (
        ", and the same weights as the trainer rescales them" if any(one.name == "as trained" for one in lines) else ""
    )
    caption += ", and under the full attack" if any(one.name == "full attack" for one in lines) else ""
    heights = [y for one in lines for _, y in one.points]
    log = min(heights) > 0 and max(heights) > FAR * min(heights)
    name = f"gradient error{', logarithmic' if log else ''}"
    picture = charts.curves(lines, x_title=_WHEN, y_title=name, alt=alt, zero=not log, log=log)
    return Figure(f"{caption}.", picture)


def _overlap(record: RunRecord) -> Figure | None:
    points = _series(record, "overlap", 100)
    if not points:
        return None
    share, chance = _kept(record), []
    if share is not None:
        chance = [(100 * share, "by chance")]
    alt = "Share of the previous coreset that the next one keeps: " + ", ".join(f"{y:.0f} %" for _, y in points)
    picture = charts.curves(
        [Line("kept", points, 1, dots=True)], x_title=_WHEN, y_title="overlap, %", alt=alt,
        zero=True, top=100.0, chance=chance,
    )  # fmt: skip
    return Figure("Overlap: the share of the previous coreset that is in the next one, too.", picture)


def _kept(record: RunRecord) -> float | None:
    """Share of the data that a coreset holds."""
    counts, k = record.data.get("class_counts"), record.selections[-1].get("k")
    if counts and k:
        return k / sum(counts)
    return (record.config.get("selection") or {}).get("budget")


_COLUMNS = (
    ("at", "epoch", "{}"), ("solver", "solver", "{}"), ("examples", "k", "{:,}"),
    ("gradient error", "gradient_error", "{:.3f}"), ("random", "gradient_error_random", "{:.3f}"),
    ("as trained", "gradient_error_trained", "{:.3f}"), ("full attack", "gradient_error_full", "{:.3f}"),
    ("of held-out", "target_error", "{:.3f}"), ("overlap", "overlap", "{:.3f}"),
    ("sum of weights / N", "weight_sum", "{:.3f}"),
    ("effective size / K", "effective_sample_size", "{:.3f}"), ("filled", "filled", "{}"), ("rounds", "rounds", "{}"),
    ("passes", "passes", "{:,}"),
)  # fmt: skip
"""Name, key of the record and form."""


def _selection_table(record: RunRecord) -> Table:
    """The columns that hold anything."""
    phases = dict.fromkeys(phase for one in record.selections for phase in one.get("seconds") or {})
    told = [one | {f"s:{p}": v for p, v in (one.get("seconds") or {}).items()} for one in record.selections]
    columns = [*_COLUMNS, *((f"{phase}, s", f"s:{phase}", "{:.2f}") for phase in phases)]
    known = [column for column in columns if any(one.get(column[1]) is not None for one in told)]
    rows = [["–" if one.get(key) is None else form.format(one[key]) for _, key, form in known] for one in told]
    return Table("Selections", [name for name, _, _ in known], rows, words=2)


def weights(record: RunRecord, held: Mapping[int, Sequence[float]], missing: Mapping[int, str]) -> list[Any]:
    if not record.selections:
        return [Note("No selection, so no weights: every example counts alike.", "missing")]
    figures = []
    sizes = _series(record, "effective_sample_size", 100)
    if len(sizes) > 1:
        alt = "Effective sample size by selection: " + ", ".join(f"{y:.0f} %" for _, y in sizes)
        line = [Line("", sizes, 1, dots=True)]
        picture = charts.curves(line, x_title=_WHEN, y_title="effective size, %", alt=alt, zero=True, top=100.0)
        figures.append(Figure("Effective sample size, (Σw)² / (K Σw²): 100 % where all weights are equal.", picture))
    notes = []
    for why in dict.fromkeys(missing.values()):
        epochs = ", ".join(str(epoch) for epoch, told in missing.items() if told == why)
        notes.append(Note(f"No weights of the selection at {epochs}: {why}.", "missing"))
    by_epoch = {one["epoch"]: one for one in record.selections}
    drawn = spread(sorted(set(held) & set(by_epoch)), CHOSEN)
    for epoch in drawn:
        figures.append(_histogram(epoch, held[epoch], by_epoch[epoch]))
    if len(drawn) + len(missing) < len(by_epoch):
        notes.append(Note(f"Histograms of {len(drawn)} of {len(by_epoch)} selections."))
    return [Figures(figures), *notes]


def _histogram(epoch: int, weights: Sequence[float], one: dict) -> Figure:
    low, high = min(weights), max(weights)
    effective = one.get("effective_sample_size")
    told = "" if effective is None else f"; effective sample size {100 * effective:.1f} % of {len(weights):,}"
    caption = f"Weights of the selection at {epoch}: {number(low)} to {number(high)}{told}."
    picture = charts.histogram(weights, x_title="weight (dotted: mean)", y_title="examples", alt=caption)
    return Figure(caption, picture)


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def classes(record: RunRecord) -> list[Any]:
    sets = [one["class_counts"] for one in record.selections if one.get("class_counts")]
    data = record.data.get("class_counts", [])
    if not sets and not data:
        return [Note("No selection, and the record does not say how many examples a class has.", "missing")]
    size = max(map(len, [*sets, data]))
    shares = [_shares(counts, size) for counts in ([data] if data else []) + sets]
    of_data, of_sets = (shares[0], shares[1:]) if data else ([], shares)
    shown = _changed_most(of_data, of_sets, size)
    named, last = [str(i) for i in shown], sets[-1] if sets else None
    alt = "Shares by class, in %: " + "; ".join(_class_told(i, of_data, of_sets) for i in shown)
    picture = charts.balance(
        named, [of_data[i] for i in shown] if data else [], [[one[i] for i in shown] for one in of_sets], alt=alt
    )
    caption = "Grey bars: the training data. " if data else ""
    caption += "Lines: the coresets, the last one thick." if sets else "Nothing is selected."
    notes = [] if data else [Note("The record does not say how many examples a class has in the data.", "missing")]
    if len(shown) < size:
        notes.append(Note(f"{len(shown)} of {size} classes, those whose share the last coreset changed most."))
    without = [i for i in range(len(data)) if last and data[i] and not (last + [0] * size)[i]]
    if without:
        told = f"{', '.join(map(str, without[:20]))}{', ...' if len(without) > 20 else ''}"
        notes.append(Note(f"Classes without an example in the last coreset: {told}."))
    return [Figures([Figure(caption, picture)]), *notes]


def _shares(counts: Sequence[int], size: int) -> list[float]:
    total = sum(counts) or 1
    return [100 * count / total for count in counts] + [0.0] * (size - len(counts))


def _changed_most(data: Sequence[float], sets: Sequence[Sequence[float]], size: int) -> list[int]:
    if size <= CLASSES:
        return list(range(size))
    last = sets[-1] if sets else data
    order = sorted(range(size), key=lambda i: -abs(last[i] - (data[i] if data else 100 / size)))
    return sorted(order[:CLASSES])


def _class_told(i: int, data: Sequence[float], sets: Sequence[Sequence[float]]) -> str:
    told = ([f"data {data[i]:.1f}"] if data else []) + ([f"last coreset {sets[-1][i]:.1f}"] if sets else [])
    return f"class {i}: {', '.join(told)}"
