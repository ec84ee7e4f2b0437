"""Whether the seconds of records can be compared: only on one kind of machine that had nothing else to do."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from advcore.errors import format_count
from advcore.reporting.costs import count_passes, sum_training_seconds
from advcore.reporting.record import RunRecord

# What tells machines apart: keys of a record's environment, and what is meant where one is missing.
_MACHINE = {"device": None, "platform": None, "threads": 1, "processes": 1, "torch": None}
# Seconds of equal work that differ by more than this factor were measured while the machine had other work.
_STEADY = 1.5
# The seconds of shorter runs vary too much to tell.
_LONG_ENOUGH = 1.0


@dataclass(frozen=True)
class Clock:
    """Whether seconds are `comparable`. text : the machine of all runs if they are, else why they are not."""

    comparable: bool
    text: str


def read_clock(groups: Mapping[str, Sequence[RunRecord]]) -> Clock:
    """Say whether the seconds of all records, given by method, can be compared.

    They cannot if the records come from several machines, or from one that had other work: by its load when a run
    began, or because runs of a method with equally many passes took very different times. Nor can they where there is
    neither load nor a second run to tell. A record does not name its machine, only of what kind it is.
    """
    records = list(chain.from_iterable(groups.values()))
    machines = {_read_machine(record) for record in records}
    if len(machines) != 1:
        return Clock(False, f"the records come from several machines, which differ in {_name_differences(machines)}")
    busy = sum(bool(record.environment.get("load_warning")) for record in records)
    if busy:
        runs = format_count(len(records), "run")
        reason = f"at the start of {busy} of {runs}, the machine had more processes ready to run than cores"
        return Clock(False, reason)
    factors = list(chain.from_iterable(map(_measure_spreads, groups.values())))
    has_load = all("load" in record.environment for record in records)
    if not factors and not has_load:
        reason = "the records do not contain its load, and no method was run twice"
        return Clock(False, f"it is unknown whether the machine had other work: {reason}")
    factor = max(factors, default=1.0)
    if factor > _STEADY:
        reason = f"runs of one method with the same number of passes differ in time by a factor of up to {factor:.1f}"
        return Clock(False, f"the machine had other work: {reason}")
    text = f"all runs used one kind of machine: {_describe_machine(*machines)}"
    if not has_load:
        text += "; its load was not recorded"
    return Clock(True, text)


def _read_machine(record: RunRecord) -> tuple[str, ...]:
    return tuple(str(record.environment.get(name, usual)) for name, usual in _MACHINE.items())


def _name_differences(machines: Iterable[Sequence[str]]) -> str:
    values = zip(*machines, strict=True)
    return ", ".join(name for name, entries in zip(_MACHINE, values, strict=True) if len(set(entries)) > 1)


def _describe_machine(machine: Sequence[str]) -> str:
    device, _, threads, processes, _ = machine
    words = f"{device}, {format_count(int(threads), 'thread')}"
    return words if processes == "1" else f"{words}, {processes} processes"


def _measure_spreads(records: Iterable[RunRecord]) -> list[float]:
    """Return how many times longer than the fastest the slowest took, of runs with equally many passes."""
    by_passes: dict[int, list[float]] = {}
    for record in records:
        by_passes.setdefault(round(count_passes(record)), []).append(sum_training_seconds(record))
    repeats = [seconds for seconds in by_passes.values() if len(seconds) > 1 and min(seconds) >= _LONG_ENOUGH]
    return [max(seconds) / min(seconds) for seconds in repeats]
