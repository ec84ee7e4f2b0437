"""The part of a run's page about its epochs: learning curves."""

from collections.abc import Sequence
from dataclasses import replace

from advcore.reporting import charts, scales
from advcore.reporting.headroom import describe_headroom, find_last_entry
from advcore.reporting.parts import Figure, Figures, Note, Part, note_if
from advcore.reporting.record import JsonObject, RunRecord
from advcore.reporting.svg import Point


def build_learning(record: RunRecord) -> list[Part]:
    """Return charts of the training loss, the validation accuracies, and what else was recorded in each epoch."""
    if not record.epochs:
        return [Note("No epoch is done yet.", "missing")]
    selections = [selection["epoch"] for selection in record.selections]
    axes = charts.Axes("epochs done", "", x_range=(0, max(1, record.epochs[-1]["epoch"] + 1)))
    figures = [_draw_loss(record, axes, selections)]
    lines = [
        charts.Line("clean", _read_points(record, "clean", 100), 2, dash=True),
        charts.Line("robust", _read_points(record, "robust", 100), 1),
    ]
    probes = [line for line in lines if line.points]
    if probes:
        figures.append(_draw_probes(record, probes, axes, selections))
    for (name, title), points in _read_more_curves(record).items():
        alt = (
            f"{title} over epochs, from {scales.format_number(points[0][1])} to {scales.format_number(points[-1][1])}."
        )
        curve = charts.draw_curves(
            [charts.Line("", points, 3)], replace(axes, y_title=name), alt=alt, selections=selections
        )
        figures.append(Figure(f"{title}.", curve))
    return [
        Figures(figures),
        *note_if(find_last_entry(record), f"{describe_headroom(record)}."),
        *note_if(not probes, "No validation example was looked at after the epochs.", "missing"),
        *note_if(
            selections, "Triangles and dashed lines mark selections: from there, epochs train on the new coreset."
        ),
    ]


def _draw_loss(record: RunRecord, axes: charts.Axes, selections: Sequence[float]) -> Figure:
    points = _read_points(record, "loss")
    alt = f"Training loss over epochs, from {points[0][1]:.3f} to {points[-1][1]:.3f}."
    axes = replace(axes, y_title="loss", zero=True)
    chart = charts.draw_curves([charts.Line("", points, 1)], axes, alt=alt, selections=selections)
    return Figure("Training loss, on whatever the epoch trained on.", chart)


def _draw_probes(
    record: RunRecord, probes: Sequence[charts.Line], axes: charts.Axes, selections: Sequence[float]
) -> Figure:
    best = next((point for point in read_accuracies(record) if point[0] - 1 == record.best_epoch), None)
    caption = "Accuracy on validation examples; the ring is the best epoch."
    if best is None:
        caption = "Accuracy on validation examples."
    alt = "; ".join(f"{line.name} accuracy ends at {line.points[-1][1]:.1f} %" for line in probes)
    axes = replace(axes, y_title="accuracy, %", top=100.0)
    return Figure(caption, charts.draw_curves(probes, axes, alt=alt, best=best, selections=selections))


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
