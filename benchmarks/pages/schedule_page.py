"""The schedule of long studies: their runs, how long each takes on one core, and how many are done."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import papers_page
import tables
from figures import BENCHMARKS

from advcore.reporting.record import RunRecord
from advcore.reporting.tables import to_markdown

START_SECONDS = 12
"""Seconds of a run before its first step and after its last: imports, data, counting operations."""


@dataclass(frozen=True)
class Part:
    """A suite of a study. seconds : of a run on one core, estimated by trials before the first run was done."""

    suite: str
    seconds: float
    size: str | None = None


SELECTION = (
    Part("reattack-mnist", 150),
    Part("reattack-cifar10", 190),
    Part("free-rows", 60),
    Part("pools", 210),
    Part("pools-redundant", 210),
)
PAPERS = tuple(
    Part(f"papers/{name}", page["seconds_per_run"], "small") for name, page in papers_page.PUBLISHED["pages"].items()
)
STUDIES = {"Where selection is worth its cost": (SELECTION, 40), "Tables of the papers, size small": (PAPERS, 20)}
"""Titles to the suites of a study, in their order, and the process-hours that it may take."""

HEAD = """# Schedule of the long studies

Each run is one process with one thread. Two of them run at the same time on 2 cores, one suite per core: `advcore
bench benchmarks/suites/NAME.yaml` with OMP_NUM_THREADS=1 (and `--size small` for the papers' tables). The same command
continues a suite that was stopped. Seconds per run are the median over the suite's records, including evaluation, under
the load at that time. Without a record they are an estimate from trials. The baselines that a suite adds automatically
are counted from its first run on.
"""


def measure_run(records: Iterable[RunRecord]) -> float | None:
    """Return the median seconds of a run, with start and evaluation; None without records."""
    totals = [sum(phase["seconds"] for phase in record.ledger.values()) + START_SECONDS for record in records]
    return statistics.median(totals) if totals else None


def table(parts: Sequence[Part]) -> tuple[str, float]:
    """Return the table of a study, and its process-hours in all."""
    rows, hours = [], 0.0
    for part in parts:
        suite, found = tables.suite_of(part.suite, part.size), tables.groups(part.suite, part.size)
        records = [record for group in found.values() for record in group]
        planned, measured = len(tables.methods_of(part.suite, part.size)) * len(suite.seeds), measure_run(records)
        seconds = measured or part.seconds
        hours += planned * seconds / 3600
        source = "measured" if measured else "estimated"
        cells = (str(planned), str(len(records)), f"{seconds:.0f} ({source})", f"{planned * seconds / 3600:.1f}")
        rows.append((part.suite, *cells))
    return to_markdown(("suite", "runs", "done", "seconds per run", "process-hours"), rows), hours


def text() -> str:
    """benchmarks/schedule.md."""
    lines = [HEAD]
    for title, (parts, limit) in STUDIES.items():
        shown, hours = table(parts)
        lines += [f"## {title}", "", f"{hours:.1f} process-hours in total; the limit is {limit}.", "", shown, ""]
    return "\n".join(lines)


def write() -> None:
    (BENCHMARKS / "schedule.md").write_text(text())
