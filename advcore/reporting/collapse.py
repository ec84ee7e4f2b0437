"""Tell runs that ended in catastrophic overfitting from others: they are counted, and are in no average."""

from collections.abc import Sequence

from advcore.reporting.record import JsonObject, RunRecord

# As `training.judge.COLLAPSE`: reports know nothing of training.
_FALL = 0.20


def has_collapsed(record: RunRecord, which: str = "last") -> bool:
    """Return whether a checkpoint is one after catastrophic overfitting.

    Of "last", it is if the last epoch's robust accuracy on validation examples lies below the best epoch's as far as a
    fall from one epoch to the next must to be an event of the run: by more than 0.20, and by more than the confidence
    intervals allow. A run that fell and rose again has not collapsed, one that sank epoch by epoch has. "best" is the
    best epoch itself. Without validation examples nothing is known, and nothing has collapsed.
    """
    attacked = [entry for entry in record.epochs if entry.get("robust") is not None]
    if which != "last" or not attacked:
        return False
    best = max(attacked, key=_read_robust)
    last = attacked[-1]
    fell = _read_robust(best) - _read_robust(last) > _FALL
    return fell and _read_interval(last)[1] < _read_interval(best)[0]


def _read_robust(epoch: JsonObject) -> float:
    return epoch["robust"]


def _read_interval(epoch: JsonObject) -> tuple[float, float]:
    """Return the interval of an epoch's robust accuracy; of an older record without one, the accuracy itself twice."""
    low, high = epoch.get("probe", {}).get("interval", (epoch["robust"], epoch["robust"]))
    return low, high


def drop_collapsed(records: Sequence[RunRecord], which: str = "last") -> list[RunRecord]:
    """Return the records of the runs whose checkpoint is not one after catastrophic overfitting."""
    return [record for record in records if not has_collapsed(record, which)]


def count_runs(records: Sequence[RunRecord], which: str = "last") -> str:
    """Count runs for a table: "3", or "2 + 1 collapsed"."""
    sound = len(drop_collapsed(records, which))
    if sound == len(records):
        return str(sound)
    return f"{sound} + {len(records) - sound} collapsed"
