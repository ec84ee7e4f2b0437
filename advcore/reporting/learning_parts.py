"""The part of a run's page about its epochs: learning curves."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from advcore.reporting import charts, scales
from advcore.reporting.frame import HALF
from advcore.reporting.headroom import describe_headroom, find_last_entry
from advcore.reporting.parts import Figure, Figures, Note, Part, note_if
from advcore.reporting.record import JsonObject, RunRecord
from advcore.reporting.svg import Point


def build_learning(record: RunRecord) -> list[Part]:
    """Return charts of the training loss, and of what else was recorded in each epoch.

    Validation accuracies are drawn at the top of the page, by `draw_accuracies`.
    """
    if not record.epochs:
        return [Note("No epoch is done yet.", "missing")]
    figures = [_draw_loss(record)]
    for (name, title), points in _read_more_curves(record).items():
        ends = [scales.format_number(y) for _, y in (points[0], points[-1])]
        alt = f"{title} over epochs, from {ends[0]} to {ends[1]}."
        line = charts.Line("", points, 3)
        figures.append(_draw_epochs(record, f"{title}.", [line], charts.Axes("epochs done", name), alt=alt))
    unseen = not any(_list_probes(record))
    return [
        Figures(figures),
        *note_if(find_last_entry(record), f"{describe_headroom(record)}."),
        *note_if(unseen, "No validation accuracy was measured after the epochs.", "missing"),
        *note_if(record.selections, f"{_SELECTIONS} The epochs after it train on the new coreset."),
    ]


# The size of the chart at the top of a page.
_TALL = (540.0, 340.0)
_SELECTIONS = "A triangle with a dashed line marks a selection."


def draw_accuracies(record: RunRecord) -> Figure | None:
    """Draw the clean and robust accuracy on validation examples over epochs; None where neither was measured."""
    probes = _list_probes(record)
    if not probes:
        return None
    best = next((point for point in read_accuracies(record) if point[0] - 1 == record.best_epoch), None)
    caption = "Accuracy on validation examples over epochs."
    if best is not None:
        caption += " The ring is the best epoch."
    if record.selections:
        caption += f" {_SELECTIONS}"
    alt = "; ".join(f"{line.name} accuracy ends at {line.points[-1][1]:.1f} %" for line in probes)
    axes = charts.Axes("epochs done", "accuracy, %", top=100.0)
    return _draw_epochs(record, caption, probes, axes, alt=alt, best=best, size=_TALL)


def _list_probes(record: RunRecord) -> list[charts.Line]:
    lines = [
        charts.Line("clean", _read_points(record, "clean", 100), 2, dash=True),
        charts.Line("robust", _read_points(record, "robust", 100), 1),
    ]
    return [line for line in lines if line.points]


def _draw_loss(record: RunRecord) -> Figure:
    points = _read_points(record, "loss")
    alt = f"Training loss over epochs, from {points[0][1]:.3f} to {points[-1][1]:.3f}."
    caption = "Training loss, on the examples that each epoch trained on."
    axes = charts.Axes("epochs done", "loss", zero=True)
    return _draw_epochs(record, caption, [charts.Line("", points, 1)], axes, alt=alt)


def _draw_epochs(
    record: RunRecord,
    caption: str,
    lines: Sequence[charts.Line],
    axes: charts.Axes,
    *,
    alt: str,
    best: Point | None = None,
    size: charts.Size = HALF,
) -> Figure:
    """Draw curves over all epochs of a run, with its selections. size : of the larger chart."""
    axes = replace(axes, x_range=(0, max(1, record.epochs[-1]["epoch"] + 1)))
    selections = [selection["epoch"] for selection in record.selections]
    draw = partial(charts.draw_curves, lines, axes, alt=alt, best=best, selections=selections)
    return charts.make_figure(caption, draw, size)


def _read_points(record: RunRecord, key: str, factor: float = 1.0) -> list[Point]:
    """Return the number of epochs done, and what an epoch holds under `key`, times `factor`."""
    return [(entry["epoch"] + 1, factor * entry[key]) for entry in record.epochs if entry.get(key) is not None]


def read_accuracies(record: RunRecord) -> list[Point]:
    """Return the validation accuracies by which epochs are judged, in percent, by the number of epochs done."""
    accuracies = [(entry["epoch"] + 1, _judge_epoch(entry)) for entry in record.epochs]
    return [(done, 100.0 * accuracy) for done, accuracy in accuracies if accuracy is not None]


def _judge_epoch(entry: JsonObject) -> float | None:
    """Return the robust accuracy of an epoch, or the clean one where nothing is attacked."""
    robust = entry.get("robust")
    return entry.get("clean") if robust is None else robust


def _read_more_curves(record: RunRecord) -> dict[tuple[str, str], list[Point]]:
    """Return headroom, and what growing attack steps, a minibatch rule and rows caught in training recorded.

    By the name of the axis and the title.
    """
    curves: dict[tuple[str, str], list[Point]] = {}
    for entry in record.epochs:
        rule = {name.replace("_", " "): value for name, value in (entry.get("minibatch") or {}).items()}
        radius = rule.pop("radius", None) or {}
        rule |= {"smallest radius that flips": radius.get("mean"), "flipped in the ball": radius.get("flipped")}
        values = {("steps", "Attack steps"): entry.get("attack_steps")}
        values["headroom", "Headroom, of the set that the epoch trained on"] = entry.get("headroom")
        values["epochs", "Mean age of the gradient rows"] = (entry.get("rows") or {}).get("age")
        values |= {(name, f"Minibatch rule: {name}"): value for name, value in rule.items()}
        for names, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                curves.setdefault(names, []).append((entry["epoch"] + 1, value))
    return curves
