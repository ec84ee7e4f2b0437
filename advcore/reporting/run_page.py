"""The page of a run, from its record and from the coresets and images in the run's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from advcore.reporting import learning_parts, outcome_parts, selection_parts, settings_parts, summary, tables, titles
from advcore.reporting.lenient import build_or_note, read_or
from advcore.reporting.parts import (
    Example,
    Galleries,
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
from advcore.reporting.record import RunRecord


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
    share = read_or(None, selection_parts.find_coreset_share, record)
    return Page(
        title=read_or(titles.write_title(record.name), titles.name_run, record, share),
        subtitle=f"Run {record.name}, seed {record.config.get('seed', '?')}. "
        f"Plan: {record.plan or 'not in the record'}.",
        notes=[
            *note_if(
                not record.finished,
                f"This run is not finished. Epochs done: {len(record.epochs)}; costs are those so far.",
                "warning",
            ),
            *build_or_note(_note_flags, record),
        ],
        summary=summary.write_sentences(record),
        cautions=summary.list_cautions(record),
        picture=read_or(None, learning_parts.draw_accuracies, record),
        key=read_or([], summary.choose_key_numbers, record),
        sections=_build_sections(record, beside),
        footer=f"Made by advcore report from a record of advcore {record.environment.get('advcore', '?')}.",
    )


def _build_sections(record: RunRecord, beside: RunFiles) -> list[Section]:
    """Return the sections, of which each says so where the record does not hold what it shows."""
    weights = build_or_note(selection_parts.build_weights, record, beside.weights, beside.no_weights)
    return [
        Section("Accuracy", "accuracy", build_or_note(outcome_parts.build_accuracies, record)),
        Section("Images", "images", build_or_note(_build_images, beside)),
        Section("Cost", "cost", build_or_note(outcome_parts.build_costs, record)),
        Section("Learning curves", "learning", build_or_note(learning_parts.build_learning, record)),
        Section("Selections", "selections", build_or_note(selection_parts.build_selections, record)),
        Section("Weights", "weights", weights),
        Section("Classes", "classes", build_or_note(selection_parts.build_classes, record)),
        Section("Events", "events", build_or_note(_build_events, record)),
        Section("Settings", "settings", build_or_note(settings_parts.build_settings, record)),
    ]


def _note_flags(record: RunRecord) -> list[Note]:
    return [Note(flag, "flag") for flag in tables.list_run_flags(record)]


# ---- images and events ----


def _build_images(beside: RunFiles) -> list[Part]:
    galleries = [Gallery(title, examples) for title, examples in beside.galleries]
    shown: list[Part] = [Galleries(galleries)] if galleries else []
    return [*shown, *beside.about_images]


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
