"""What runs have cost, from their records: passes, seconds, and those of the run whose weights they began with."""

import statistics
from collections.abc import Sequence

from advcore.reporting.record import RunRecord

# The title of a column.
PRETRAINING = "pretraining"


def count_passes(record: RunRecord) -> float:
    """Return the passes of all phases but evaluation.

    Relative costs alone cannot be compared where methods have different references: other objectives, or more data.
    """
    if "flops" not in record.reference:
        return record.relative_cost * record.reference.get("units", 1)
    counted = [entry for phase, entry in record.ledger.items() if phase != "evaluation"]
    return round(sum(entry["forward"] + entry["backward"] for entry in counted))


def count_flops(record: RunRecord) -> int | None:
    """Return the floating-point operations of all phases but evaluation; None where they were not counted."""
    counted = [entry for phase, entry in record.ledger.items() if phase != "evaluation"]
    if not counted or any("flops" not in entry for entry in counted):
        return None
    return round(sum(entry["flops"] for entry in counted))


def sum_training_seconds(record: RunRecord) -> float:
    """Return the seconds of training and selection: of all phases but evaluation."""
    return sum(entry["seconds"] for phase, entry in record.ledger.items() if phase != "evaluation")


def measure_pretraining(records: Sequence[RunRecord]) -> float | None:
    """Return the mean cost of the runs whose weights these began with, relative to the reference of these; or None."""
    costs = [record.pretraining.get("passes", 0) / record.reference.get("units", 1) for record in records]
    return statistics.fmean(costs) or None


def list_pretraining_rows(record: RunRecord) -> list[tuple[str, str]]:
    """Return a row with the cost of the run whose weights this one began with, if there is such a run."""
    if not record.pretraining:
        return []
    return [(f"{PRETRAINING}, relative cost", f"{measure_pretraining([record]):.3f}")]
