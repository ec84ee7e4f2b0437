"""A run's record, and what lies beside it in the run's folder, to a page."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from advcore.errors import in_a_line
from advcore.pixels import format_exactly
from advcore.reporting import charts
from advcore.reporting.charts import Line
from advcore.reporting.outcome_parts import accuracies, costs
from advcore.reporting.parts import Figure, Figures, Gallery, Listing, Note, Page, Section, Shown, Table
from advcore.reporting.record import RunRecord
from advcore.reporting.scales import number
from advcore.reporting.selection_parts import classes, selections, weights
from advcore.reporting.tables import attack_label, percent, together


@dataclass(frozen=True)
class Beside:
    """What a record does not hold: weights by epoch of the selection, images, and lines about what is not there."""

    weights: Mapping[int, Sequence[float]] = field(default_factory=dict)
    no_weights: Mapping[int, str] = field(default_factory=dict)
    galleries: Sequence[tuple[str, Sequence[Shown]]] = ()
    about_images: Sequence[Note] = ()


def run_page(record: RunRecord, beside: Beside) -> Page:
    """Every number on it is the record's, but weights and images."""
    found = {
        "Accuracy": lambda: accuracies(record),
        "Cost": lambda: costs(record),
        "Learning curves": lambda: _learning(record),
        "Selections": lambda: selections(record),
        "Weights": lambda: weights(record, beside.weights, beside.no_weights),
        "Classes": lambda: classes(record),
        "Images": lambda: _images(beside),
        "Events": lambda: _events(record),
        "Settings": lambda: _settings(record),
    }
    sections = [Section(title, title.partition(" ")[0].lower(), known(parts)) for title, parts in found.items()]
    return Page(
        title=f"{record.name}, seed {record.config.get('seed', '?')}",
        subtitle=record.plan or "The record holds no plan.",
        key=known(lambda: _key(record), []),
        notes=[*_state(record), *known(lambda: _flags(record))],
        sections=sections,
        footer=f"Made by advcore report from a record of advcore {record.environment.get('advcore', '?')}.",
    )


def _state(record: RunRecord) -> list[Note]:
    """What must be known before any number is read."""
    notes = []
    if not record.finished:
        notes.append(Note(f"This run is not finished. Epochs done: {len(record.epochs)}; costs are those so far."))
    return notes


def _flags(record: RunRecord) -> list[Note]:
    flags = dict.fromkeys(flag for found in record.final.values() for flag in found.get("flags", ()))
    return [Note(flag, "flag") for flag in flags]


def known(build: Callable[[], list[Any]], *instead: Any) -> list[Any]:
    """What `build` makes of a record; where it is older, or was not written by a run, `instead`, or a line that says
    what is not there."""
    try:
        return build()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        told = f"The record does not hold what belongs here, or not as this version writes it ({in_a_line(error)})."
        return instead[0] if instead else [Note(told, "missing")]


def _key(record: RunRecord) -> list[tuple[str, str, str]]:
    """What matters most."""
    found = []
    if "last" in record.final:
        last = record.final["last"]
        told = [(f"robust, {attack_label(one)}", one) for one in last["attacks"][:1]]
        if worst := together(last):
            told = [(f"robust, all {len(last['attacks'])} attacks", worst)]
        told.append(("clean", last["clean"]))
        for name, one in told:
            low, high = one["interval"]
            found.append(
                (name, f"{percent(one['accuracy'])} %", f"{percent(low)} to {percent(high)}, n = {one['n']:,}")
            )
    elif record.epochs:
        latest = record.epochs[-1]
        for name in ("robust", "clean"):
            if latest.get(name) is not None:
                found.append(
                    (f"{name}, validation", f"{percent(latest[name])} %", f"epochs done: {latest['epoch'] + 1}")
                )
    more = "full training is 1" if record.finished else "so far; full training is 1"
    found.append(("relative cost", f"{record.relative_cost:.3f}", more))
    measured = [one for one in record.selections if one.get("gradient_error") is not None]
    if measured:
        last = measured[-1]
        compared = f"random {last['gradient_error_random']:.3f}, selection at {last['epoch']}"
        found.append(("gradient error", f"{last['gradient_error']:.3f}", compared))
    return found


# ---- learning curves ----


def _learning(record: RunRecord) -> list[Any]:
    if not record.epochs:
        return [Note("No epoch is done yet.", "missing")]
    chosen = [one["epoch"] for one in record.selections]
    common = {"x_title": "epochs done", "selections": chosen, "x_span": (0, max(1, record.epochs[-1]["epoch"] + 1))}
    loss = [(one["epoch"] + 1, one["loss"]) for one in record.epochs if one.get("loss") is not None]
    alt = f"Training loss over epochs, from {loss[0][1]:.3f} to {loss[-1][1]:.3f}."
    figures = [
        Figure("Training loss, on whatever the epoch trained on.",
               charts.curves([Line("", loss, 1)], y_title="loss", alt=alt, zero=True, **common))
    ]  # fmt: skip
    probes = _probes(record)
    if probes:
        best = _best_point(record)
        alt = "; ".join(f"{one.name} accuracy ends at {one.points[-1][1]:.1f} %" for one in probes)
        caption = "Accuracy on validation examples" + ("; the ring is the best epoch." if best else ".")
        ring = (best, "best epoch") if best else None
        figures.append(
            Figure(caption, charts.curves(probes, y_title="accuracy, %", alt=alt, top=100.0, ring=ring, **common))
        )
    for name, told, points in _more_curves(record):
        alt = f"{told} over epochs, from {number(points[0][1])} to {number(points[-1][1])}."
        figures.append(Figure(f"{told}.", charts.curves([Line("", points, 3)], y_title=name, alt=alt, **common)))
    notes = [] if probes else [Note("No validation example was looked at after the epochs.", "missing")]
    marks = "Triangles and dashed lines mark selections: from there, epochs train on the new coreset."
    return [Figures(figures), *notes, *([Note(marks)] if chosen else [])]


def _probes(record: RunRecord) -> list[Line]:
    named = (("clean", 2, True), ("robust", 1, False))
    found = [
        Line(
            name,
            [(one["epoch"] + 1, 100 * one[name]) for one in record.epochs if one.get(name) is not None],
            colour,
            dash=dash,
        )
        for name, colour, dash in named
    ]
    return [line for line in found if line.points]


def _best_point(record: RunRecord) -> tuple[float, float] | None:
    entry = next((one for one in record.epochs if one["epoch"] == record.best_epoch), None)
    value = entry and (entry.get("robust") if entry.get("robust") is not None else entry.get("clean"))
    return None if value is None else (record.best_epoch + 1, 100 * value)


def _more_curves(record: RunRecord) -> list[tuple[str, str, list[tuple[float, float]]]]:
    """What a minibatch rule and growing attack steps tell of each epoch."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one in record.epochs:
        told = {("steps", "Attack steps"): one.get("attack_steps")}
        told |= {
            (name.replace("_", " "), f"Minibatch rule: {name.replace('_', ' ')}"): value
            for name, value in (one.get("minibatch") or {}).items()
        }
        for key, value in told.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found.setdefault(key, []).append((one["epoch"] + 1, value))
    return [(*key, points) for key, points in found.items()]


# ---- images, events, settings ----


def _images(beside: Beside) -> list[Any]:
    galleries = [Gallery(title, shown) for title, shown in beside.galleries]
    return [*beside.about_images, *galleries]


def _events(record: RunRecord) -> list[Any]:
    parts: list[Any] = []
    if record.events:
        rows = [(str(one.get("epoch", "–")), str(one.get("event", one))) for one in record.events]
        parts.append(Table("What fell back, was left out or went wrong", ("epoch", "event"), rows, words=2))
    else:
        parts.append(Note("No events: nothing fell back, was left out or collapsed."))
    if record.resumes:
        rows = [
            (str(one.get("epoch", "–")), _listed(one.get("changed")), _listed(one.get("damaged")))
            for one in record.resumes
        ]
        parts.append(Table("Resumed", ("at epoch", "changed settings", "damaged states"), rows, words=3))
    else:
        parts.append(Note("The run was not interrupted."))
    return parts


def _listed(lines: Sequence[Any] | None) -> str:
    return "; ".join(map(str, lines)) if lines else "none"


def _settings(record: RunRecord) -> list[Any]:
    rows = [
        (name, value if isinstance(value, str) else _in_json(value)) for name, value in flat(record.environment).items()
    ]
    inputs = [
        (name, value if isinstance(value, str) else _in_json(value)) for name, value in flat(record.inputs).items()
    ]
    data = {name: value for name, value in record.data.items() if name != "class_counts"}
    parts: list[Any] = [Listing("The run's settings, all of them", indented(record.config))]
    if data:
        told = [(name.replace("_", " "), _in_json(value)) for name, value in data.items()]
        parts.append(Table("Data", (), told, words=2))
    if inputs:
        parts.append(Table("Files that the run read", (), inputs, words=2))
    parts.append(
        Table("Environment", (), rows, words=2) if rows else Note("The record names no environment.", "missing")
    )
    return parts


def _in_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _in_run_file(value: object) -> str:
    """Write a setting in one line from which a run file reads back the same value: JSON, and 8/255 as a fraction."""
    if isinstance(value, list):
        return f"[{', '.join(map(_in_run_file, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_in_json(key)}: {_in_run_file(entry)}' for key, entry in value.items())}}}"
    fraction = format_exactly(value) if isinstance(value, float) else None
    return fraction if fraction and "/" in fraction else _in_json(value)


def flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Settings by dotted path; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        here = f"{path}{key}"
        found |= flat(value, f"{here}.") if isinstance(value, dict) and value else {here: value}
    return found


def indented(tree: Any, depth: int = 0) -> str:
    """A nested mapping in the lines of a run file: YAML whose values are JSON."""
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            lines += [f"{'  ' * depth}{key}:", indented(value, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}{key}: {_in_run_file(value)}")
    return "\n".join(lines)
