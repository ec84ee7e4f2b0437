"""Sends each epoch of a run to its trackers, once. A tracker that fails does not stop the run."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from advcore.errors import CheckpointError, describe_exception
from advcore.files import check_inside, read_sealed, write_sealed
from advcore.rng import preserve_random_state
from advcore.tracking.base import Opening, Sink, Tracker, Values
from advcore.tracking.metrics import Row, pick_numbers
from advcore.types import Event

log = logging.getLogger(__name__)

_SCHEMA = "advcore-tracking-1"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# In the run's folder: for each tracker a JSON with the state of its sink, and a folder for the files it writes.
FOLDER = "tracking"


class Tracking:
    """The open trackers of a run.

    When a tracker raises an error, the error becomes a warning and an event, and the tracker receives nothing more.
    The run's random numbers are restored after each call of a tracker.

    Parameters
    ----------
    trackers : by name.
    path : the run's folder.
    run_name, config : the run's name and its resolved settings.
    """

    def __init__(self, trackers: dict[str, Tracker], path: Path, run_name: str, config: Mapping[str, object]) -> None:
        self.folder = path / FOLDER
        self.sinks: dict[str, Sink] = {}
        self.events: list[Event] = []
        for name, tracker in trackers.items():
            self._try(name, self._open, name, tracker, run_name, config)

    def _open(self, name: str, tracker: Tracker, run_name: str, config: Mapping[str, object]) -> None:
        file = self.folder / f"{name}.json"
        saved: dict = {"told": 0, "kept": {}}
        if file.exists():
            saved = read_sealed(check_inside(file, self.folder.parent), _SCHEMA, unsealed="")
        if not _ID.fullmatch(saved["kept"].get("id", "none")):
            raise CheckpointError(f"{file} is damaged: it holds no run id")
        self.sinks[name] = tracker.open(
            Opening(self.folder / name, run_name, config, state=saved["kept"], epochs_logged=saved["told"])
        )
        self._save_state(name)

    def _save_state(self, name: str) -> None:
        sink = self.sinks[name]
        write_sealed(self.folder / f"{name}.json", {"told": sink.epochs_logged, "kept": sink.state}, _SCHEMA)

    def tell(self, rows: Sequence[Row]) -> None:
        """Send each tracker the epochs that it does not have yet.

        A run that continues repeats the epochs after its last checkpoint, with the same numbers.
        """
        for name, sink in list(self.sinks.items()):
            self._try(name, self._log, name, sink, rows)

    def _log(self, name: str, sink: Sink, rows: Sequence[Row]) -> None:
        for epoch, row in enumerate(rows[sink.epochs_logged :], sink.epochs_logged):
            sink.log(epoch, pick_numbers(row))
            sink.epochs_logged = epoch + 1
            self._save_state(name)

    def report(self, events: list[dict], epoch: int) -> None:
        """Append the failures since the last report to a record's events."""
        events.extend({"epoch": epoch, "kind": event.kind, "event": event.text} for event in self.events)
        self.events.clear()

    def close(self, final: Values | None = None) -> None:
        """Close the trackers: `final` holds the numbers of a finished run, None means that the run was stopped."""
        for name, sink in list(self.sinks.items()):
            self._try(name, sink.close, final)
        self.sinks.clear()

    def _try(self, name: str, action: Callable[..., None], *arguments: object) -> None:
        """Call `action`; if it fails, warn and drop the tracker of that name."""
        try:
            with preserve_random_state():
                action(*arguments)
        except Exception as error:
            text = f"tracking with {name} failed and is switched off: {describe_exception(error)}"
            log.warning("%s", text)
            self.events.append(Event("tracking", text))
            self.sinks.pop(name, None)
