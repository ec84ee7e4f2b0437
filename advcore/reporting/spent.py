"""The columns of what methods have cost: relative cost, seconds, and how many times less than a reference."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from advcore.reporting import costs
from advcore.reporting.clock import read_clock
from advcore.reporting.record import RunRecord

SECONDS = "seconds"


@dataclass(frozen=True)
class Column:
    """A column of a table of methods.

    title : at its head. format : writes the cell of a method from its records; None for no value.
    """

    title: str
    format: Callable[[Sequence[RunRecord]], str | None]


def list_columns(groups: Mapping[str, Sequence[RunRecord]], against: Sequence[RunRecord] = ()) -> list[Column]:
    """Return the columns of costs that a table of these methods has.

    They are the relative cost in the unit that all records count, that of the pretraining where there is any, and the
    seconds of training and selection. against : the records of one of the methods, that speed-ups are relative to: in
    the same unit and, where seconds can be compared, in seconds; without any there are no such columns.
    """
    records = list(chain.from_iterable(groups.values()))
    unit = costs.choose_unit(records)
    columns = [Column(unit.title, partial(_format_cost, unit=unit))]
    if any(record.pretraining for record in records):
        columns.append(Column(costs.PRETRAINING, partial(_format_pretraining, unit=unit)))
    columns.append(Column(SECONDS, format_seconds))
    if against:
        columns.append(Column(f"speed-up ({unit.name})", partial(_format_count_ratio, against, unit)))
        if read_clock(groups).comparable:
            columns.append(Column(f"speed-up ({SECONDS})", partial(_format_seconds_ratio, against)))
    return columns


def _format_cost(records: Sequence[RunRecord], *, unit: costs.Unit) -> str:
    return f"{statistics.fmean(map(unit.compare, records)):.2f}"


def _format_pretraining(records: Sequence[RunRecord], *, unit: costs.Unit) -> str | None:
    cost = costs.measure_pretraining(records, unit)
    return None if cost is None else f"{cost:.2f}"


def format_seconds(records: Sequence[RunRecord]) -> str:
    """Write the median of the seconds of training and selection."""
    seconds = measure_seconds(records)
    return f"{seconds:,.1f}" if seconds < 10 else f"{seconds:,.0f}"


def measure_seconds(records: Sequence[RunRecord]) -> float:
    """Return the median of the seconds of training and selection: a run that had to wait for others does not count."""
    return statistics.median(map(costs.sum_training_seconds, records))


def _format_count_ratio(against: Sequence[RunRecord], unit: costs.Unit, records: Sequence[RunRecord]) -> str | None:
    """Write how many times less the records took than those of the reference, by the means over runs."""
    mean, reference = (statistics.fmean(map(unit.count, runs)) for runs in (records, against))
    return f"{reference / mean:.2f}" if mean else None


def _format_seconds_ratio(against: Sequence[RunRecord], records: Sequence[RunRecord]) -> str | None:
    """Write how many times shorter the records took than those of the reference."""
    seconds = measure_seconds(records)
    return f"{measure_seconds(against) / seconds:.2f}" if seconds else None


def explain_columns(groups: Mapping[str, Sequence[RunRecord]], reference: str | None = None) -> list[str]:
    """Return sentences on what the columns of `list_columns` hold.

    reference : the method that speed-ups are relative to; None where the table has none.
    """
    lines = costs.explain_unit(list(chain.from_iterable(groups.values())))
    if reference:
        lines.append(f"Speed-ups are relative to {reference}.")
    clock = read_clock(groups)
    remark = clock.text if clock.comparable else f"they cannot be compared, because {clock.text}"
    seconds = "Seconds are for training and selection, without evaluation; each is a median over runs."
    return [*lines, f"{seconds} {remark[0].upper()}{remark[1:]}."]
