"""Tells a run's trackers of each epoch once, and outlives them."""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from advcore.errors import CheckpointError, in_a_line
from advcore.files import inside, read_sealed, write_sealed
from advcore.rng import preserved
from advcore.tracking.base import Opening, Sink, Tracker, Values
from advcore.tracking.metrics import numbers

log = logging.getLogger(__name__)

_SCHEMA = "advcore-tracking-1"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
FOLDER = "tracking"
"""In the run's folder: a JSON for each tracker, with what it was told, and a folder for what it writes."""


class Tracking:
    """The run's trackers, open. Whatever one of them raises is a warning and an event, and it is told nothing more; the
    run's random numbers are not theirs.

    trackers : by name. path : the run's folder.
    """

    def __init__(self, trackers: dict[str, Tracker], path: Path, name: str, config: dict[str, Any]):
        self.folder, self.sinks, self.events = path / FOLDER, {}, []
        for own, tracker in trackers.items():
            self._try(own, lambda own=own, tracker=tracker: self._open(own, tracker, name, config))

    def _open(self, own: str, tracker: Tracker, name: str, config: dict[str, Any]) -> None:
        file = self.folder / f"{own}.json"
        known = {"told": 0, "kept": {}}
        if file.exists():
            known = read_sealed(inside(file, self.folder.parent), _SCHEMA, unsealed="")
        if not _ID.fullmatch(known["kept"].get("id", "none")):
            raise CheckpointError(f"{file} is damaged: it holds no id of a run")
        self.sinks[own] = tracker.open(Opening(self.folder / own, name, config, known["kept"], known["told"]))
        self._note(own, self.sinks[own])

    def _note(self, own: str, sink: Sink) -> None:
        write_sealed(self.folder / f"{own}.json", {"told": sink.told, "kept": sink.kept}, _SCHEMA)

    def tell(self, rows: Sequence[dict[str, Any]]) -> None:
        """The epochs that a tracker was not told yet; a run that goes on does some again, to the same numbers."""
        for own, sink in list(self.sinks.items()):
            self._try(own, lambda own=own, sink=sink: self._tell(own, sink, rows))

    def _tell(self, own: str, sink: Sink, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows[sink.told :]:
            sink.log(row["epoch"], numbers(row))
            sink.told = row["epoch"] + 1
            self._note(own, sink)

    def report(self, events: list[dict[str, Any]], epoch: int) -> None:
        """What failed since the last report, as events."""
        events.extend({"epoch": epoch, "event": one} for one in self.events)
        self.events.clear()

    def close(self, final: Values | None = None) -> None:
        """The end, with final numbers, or a stop without."""
        for own, sink in list(self.sinks.items()):
            self._try(own, lambda sink=sink: sink.close(final))
        self.sinks.clear()

    def _try(self, own: str, what: Callable[[], None]) -> None:
        try:
            with preserved():
                what()
        except Exception as error:
            told = f"tracking with {own} failed, and it is told nothing more: {in_a_line(error)}"
            log.warning("%s", told)
            self.events.append(told)
            self.sinks.pop(own, None)
