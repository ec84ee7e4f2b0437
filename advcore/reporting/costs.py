"""What runs have cost, from their records: compute and passes, and those of the run whose weights they began with."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from advcore.reporting.record import JsonObject, RunRecord
from advcore.work import format_operations

# The title of a column.
PRETRAINING = "pretraining"


@dataclass(frozen=True)
class Unit:
    """What costs are counted in; costs in different units cannot be compared.

    name : "compute" or "passes".
    kinds : the keys of what is counted, in the ledger's entry of a phase.
    of_reference, of_pretraining : the keys of the count in a record's reference and pretraining.
    format : writes a count with its unit.
    """

    name: str
    kinds: tuple[str, ...]
    of_reference: str
    of_pretraining: str
    format: Callable[[float], str]

    @property
    def title(self) -> str:
        """The title of a column of relative costs."""
        return f"relative cost ({self.name})"

    def count_phase(self, entry: JsonObject) -> float:
        """Return what a phase took, from its entry in the ledger."""
        return sum(entry[kind] for kind in self.kinds)

    def count(self, record: RunRecord) -> float:
        """Return what all phases but evaluation took.

        Relative costs alone cannot be compared where methods have different references: other objectives, or more data.
        """
        if _counts_passes_alone(record):
            return record.relative_cost * record.reference.get("units", 1)
        return sum(map(self.count_phase, _list_spent(record)))

    def compare(self, record: RunRecord) -> float:
        """Return the same, over what full training takes."""
        if _counts_passes_alone(record):
            return record.relative_cost
        return self.count(record) / record.reference[self.of_reference]


def _counts_passes_alone(record: RunRecord) -> bool:
    """Return whether a record is of an older version, whose relative cost is in passes."""
    return "flops" not in record.reference


def has_compute(record: RunRecord) -> bool:
    """Return whether a record counts the compute of all that it cost."""
    counts = [record.reference, *record.ledger.values()]
    if record.pretraining:
        counts.append(record.pretraining)
    return all(isinstance(entry, dict) and "flops" in entry for entry in counts)


def _list_spent(record: RunRecord) -> list[JsonObject]:
    return [entry for phase, entry in record.ledger.items() if phase != "evaluation"]


def _format_passes(count: float) -> str:
    return f"{count:,.0f} passes"


COMPUTE = Unit("compute", ("flops",), "flops", "flops", format_operations)
PASSES = Unit("passes", ("forward", "backward"), "units", "passes", _format_passes)


def count_passes(record: RunRecord) -> float:
    """Return the passes of all phases but evaluation."""
    return PASSES.count(record)


def count_flops(record: RunRecord) -> int | None:
    """Return the floating-point operations of all phases but evaluation; None where they were not counted."""
    spent = _list_spent(record)
    if not spent or any("flops" not in entry for entry in spent):
        return None
    return round(sum(map(COMPUTE.count_phase, spent)))


def choose_unit(records: Sequence[RunRecord]) -> Unit:
    """Return the unit of records that share a column: compute where all count it, else passes for all of them."""
    return COMPUTE if records and all(map(has_compute, records)) else PASSES


def explain_unit(records: Sequence[RunRecord]) -> list[str]:
    """Return a sentence where records that count compute are shown in passes, since others on the page do not."""
    older = sum(not has_compute(record) for record in records)
    if older in (0, len(records)):
        return []
    return [f"Costs are in passes for all rows, since {older} of {len(records)} records do not count compute."]


def sum_training_seconds(record: RunRecord) -> float:
    """Return the seconds of training and selection: of all phases but evaluation."""
    return sum(entry["seconds"] for entry in _list_spent(record))


def measure_pretraining(records: Sequence[RunRecord], unit: Unit) -> float | None:
    """Return the mean cost of the runs whose weights these began with, relative to the reference of these; or None."""
    costs = [
        record.pretraining.get(unit.of_pretraining, 0) / record.reference.get(unit.of_reference, 1)
        for record in records
    ]
    return statistics.fmean(costs) or None


def list_units(record: RunRecord) -> list[Unit]:
    """Return the units that a record counts: compute, if it does, before passes."""
    return [COMPUTE, PASSES] if has_compute(record) else [PASSES]


def list_cost_rows(record: RunRecord) -> list[tuple[str, str]]:
    """Return rows with the relative cost of a run in each unit that it counts, and how much that is.

    Where the run began with the weights of another, there is also a row with the cost of that run.
    """
    units = list_units(record)
    rows = [(unit.title, f"{unit.compare(record):.3f}, {unit.format(unit.count(record))}") for unit in units]
    if record.pretraining:
        rows.append((f"{PRETRAINING}, {units[0].title}", f"{measure_pretraining([record], units[0]):.3f}"))
    return rows
