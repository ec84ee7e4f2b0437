"""The page of a run, from its record and from the coresets and images in the run's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from advcore.reporting import costs, learning_parts, outcome_parts, selection_parts, settings_parts, tables
from advcore.reporting.lenient import build_or_note, read_or
from advcore.reporting.parts import (
    Example,
    Gallery,
    Note,
    Page,
    Part,
    Section,
    Table,
    drop_if_empty,
    note_if,
    table_or_note,
)
from advcore.reporting.record import JsonObject, RunRecord

# A number at the top of the page: its name, the number, and a remark.
KeyNumber = tuple[str, str, str]


@dataclass(frozen=True)
class RunFiles:
    """What a page shows that is not in the record.

    weights : of the coreset of each selection, by epoch.
    no_weights : why a coreset could not be read, by epoch.
    galleries : attacked examples, each gallery with its title.
    about_images : notes on the galleries, or on why there are none.
    """

    weights: Mapping[int, Sequence[float]] = field(default_factory=dict)
    no_weights: Mapping[int, str] = field(default_factory=dict)
    galleries: Sequence[tuple[str, Sequence[Example]]] = ()
    about_images: Sequence[Note] = ()


def build_run_page(record: RunRecord, beside: RunFiles) -> Page:
    """Return the page of a run. All its numbers come from the record, but for weights and images."""
    return Page(
        title=f"{record.name}, seed {record.config.get('seed', '?')}",
        subtitle=record.plan or "The record holds no plan.",
        key=read_or([], _choose_key_numbers, record),
        notes=[
            *note_if(
                not record.finished,
                f"This run is not finished. Epochs done: {len(record.epochs)}; costs are those so far.",
            ),
            *build_or_note(_note_flags, record),
        ],
        sections=[
            Section("Accuracy", "accuracy", build_or_note(outcome_parts.build_accuracies, record)),
            Section("Cost", "cost", build_or_note(outcome_parts.build_costs, record)),
            Section("Learning curves", "learning", build_or_note(learning_parts.build_learning, record)),
            Section("Selections", "selections", build_or_note(selection_parts.build_selections, record)),
            Section(
                "Weights",
                "weights",
                build_or_note(selection_parts.build_weights, record, beside.weights, beside.no_weights),
            ),
            Section("Classes", "classes", build_or_note(selection_parts.build_classes, record)),
            Section("Images", "images", build_or_note(_build_images, beside)),
            Section("Events", "events", build_or_note(_build_events, record)),
            Section("Settings", "settings", build_or_note(settings_parts.build_settings, record)),
        ],
        footer=f"Made by advcore report from a record of advcore {record.environment.get('advcore', '?')}.",
    )


def _note_flags(record: RunRecord) -> list[Note]:
    return [Note(flag, "flag") for flag in tables.list_run_flags(record)]


# ---- the most important numbers ----


def _choose_key_numbers(record: RunRecord) -> list[KeyNumber]:
    numbers: list[KeyNumber] = []
    if "last" in record.final:
        numbers += _list_final_accuracies(record.final["last"])
    elif record.epochs:
        numbers += _list_probe_accuracies(record.epochs[-1])
    remark = "full training is 1" if record.finished else "so far; full training is 1"
    for unit in costs.list_units(record):
        numbers.append((unit.title, f"{unit.compare(record):.3f}", remark))
    selections = [selection for selection in record.selections if selection.get("gradient_error") is not None]
    if selections:
        last = selections[-1]
        remark = f"random {last['gradient_error_random']:.3f}, selection at {last['epoch']}"
        numbers.append(("gradient error", f"{last['gradient_error']:.3f}", remark))
    return numbers


def _list_final_accuracies(evaluation: JsonObject) -> list[KeyNumber]:
    """Return robust accuracy, under all attacks together where there are several, and clean accuracy."""
    entries = [(f"robust, {tables.name_attack(attack)}", attack) for attack in evaluation["attacks"][:1]]
    if worst := tables.find_worst_case(evaluation):
        entries = [(f"robust, all {len(evaluation['attacks'])} attacks", worst)]
    return [
        (name, f"{tables.format_percent(entry['accuracy'])} %", f"{tables.format_interval(entry)}, n = {entry['n']:,}")
        for name, entry in (*entries, ("clean", evaluation["clean"]))
    ]


def _list_probe_accuracies(epoch: JsonObject) -> list[KeyNumber]:
    return [
        (f"{name}, validation", f"{tables.format_percent(epoch[name])} %", f"epochs done: {epoch['epoch'] + 1}")
        for name in ("robust", "clean")
        if epoch.get(name) is not None
    ]


# ---- images and events ----


def _build_images(beside: RunFiles) -> list[Part]:
    return [*beside.about_images, *(Gallery(title, examples) for title, examples in beside.galleries)]


def _build_events(record: RunRecord) -> list[Part]:
    events = [
        (str(entry.get("epoch", tables.NOTHING)), str(entry.get("kind", "")), str(entry.get("event", entry)))
        for entry in record.events
    ]
    table = Table("What fell back, was left out or went wrong", ("epoch", "kind", "event"), events, words=3)
    resumes = [
        (str(entry.get("epoch", tables.NOTHING)), _join_lines(entry.get("changed")), _join_lines(entry.get("damaged")))
        for entry in record.resumes
    ]
    return [
        table_or_note(drop_if_empty(table, "kind"), "No events: nothing fell back, was left out or collapsed."),
        table_or_note(
            Table("Resumed", ("at epoch", "changed settings", "damaged states"), resumes, words=3),
            "The run was not interrupted.",
        ),
    ]


def _join_lines(lines: Sequence[object] | None) -> str:
    return "; ".join(map(str, lines or ["none"]))
