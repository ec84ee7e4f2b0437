"""The schedule of long studies: their runs, how long each takes on one core, and how many are done."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import papers_page
import tables
from figures import BENCHMARKS

from advcore.errors import format_count
from advcore.files import read_json
from advcore.reporting.record import RunRecord
from advcore.reporting.tables import list_records, to_markdown

START_SECONDS = 12
"""Seconds of a run before its first step and after its last: imports, data, counting operations."""


@dataclass(frozen=True)
class Part:
    """A suite of a study.

    seconds : of a run on one core, estimated by trials before the first run was done. runs : how many a suite will
    have that is not written yet, because its methods follow from the suites above it.
    """

    suite: str
    seconds: float
    size: str | None = None
    runs: int | None = None


SELECTION = (
    Part("reattack-mnist", 150),
    Part("reattack-cifar10", 190),
    Part("free-rows", 60),
    Part("reattack-mnist-60000", 1_200),
    Part("pools", 210),
    Part("pools-redundant", 210),
)
PAPERS = tuple(
    Part(f"papers/{name}", page["seconds_per_run"], "small") for name, page in papers_page.PUBLISHED["pages"].items()
)
CONVERGED = (
    Part("tune-cifar10", 360),
    Part("tune-mnist", 230),
    Part("anchor-cifar10", 11_000),
    Part("anchor-mnist", 5_800),
    Part("curves-cifar10-4000", 255),
    Part("curves-mnist-4000", 110),
    Part("front-cifar10-4000", 255, runs=120),
    Part("front-mnist-4000", 110, runs=120),
    Part("curves-cifar10-20000", 800, runs=24),
    Part("curves-mnist-20000", 330, runs=24),
    Part("whole-cifar10", 3_400, runs=13),
    Part("whole-mnist", 1_500, runs=13),
)
STUDIES = {
    "Where selection is worth its cost": (SELECTION, 40),
    "Tables of the papers, size small": (PAPERS, 20),
    "Training that has converged": (CONVERGED, 60),
}
"""Titles to the suites of a study, in their order, and the process-hours that it may take."""

HEAD = """# Schedule of the long studies

Each run is one process with one thread. Two runs are computed at the same time on 2 cores, one suite per core. The
command is `advcore bench benchmarks/suites/NAME.yaml` with OMP_NUM_THREADS=1, and with `--size small` for the papers'
tables. The same command continues a suite that was stopped.

*Seconds per run* is the median over the suite's [records](../docs/glossary.md#record), with evaluation, under the load
at that time. Without a record, it is an estimate from trials. A suite adds some baselines automatically; they are
counted from its first run on. *Process-hours* is the number of runs times the seconds per run.

Some suites are not written yet. Their methods follow from the results of the suites above them in the table. The
suites *front-* have eight methods near the Pareto front, with five more seeds. The suites *curves-* on 20,000 images
have the same eight methods. The suites *whole-* use all images, for full training, random subsets, the best method with
a cheaper attack, and the best coreset.
"""

THROUGHPUT = """## Images per second

The table shows training images per second of processor time on one core, in bfloat16 and channels last. Each number is
the median of three batches (`python benchmarks/measure/throughput.py`). The studies' networks and epochs were chosen by
these numbers.
"""
ANCHOR_EPOCHS, ANCHOR_IMAGES = 40, 45_000
RECORD = BENCHMARKS / "records/throughput.json"


def measure_run(records: Iterable[RunRecord]) -> float | None:
    """Return the median seconds of a run, with start and evaluation; None without records."""
    totals = [sum(phase["seconds"] for phase in record.ledger.values()) + START_SECONDS for record in records]
    return statistics.median(totals) if totals else None


def count_runs(part: Part) -> tuple[int, list[RunRecord]]:
    """Return how many runs a suite has, and the records of those that are done."""
    if part.runs is not None:
        return part.runs, []
    found = tables.groups(part.suite, part.size)
    suite, methods = tables.suite_of(part.suite, part.size), tables.methods_of(part.suite, part.size)
    return len(methods) * len(suite.seeds), list_records(found)


def table(parts: Sequence[Part]) -> tuple[str, float]:
    """Return the table of a study, and its process-hours in all."""
    rows, hours = [], 0.0
    for part in parts:
        planned, records = count_runs(part)
        measured = measure_run(records)
        seconds = measured or part.seconds
        hours += planned * seconds / 3600
        source = "measured" if measured else "estimated"
        name = part.suite if part.runs is None else f"{part.suite} (not written yet)"
        cells = (str(planned), str(len(records)), f"{seconds:.0f} ({source})", f"{planned * seconds / 3600:.1f}")
        rows.append((name, *cells))
    return to_markdown(("suite", "runs", "done", "seconds per run", "process-hours"), rows), hours


def describe_throughput(record: Mapping) -> str:
    """Return the table of images per second by network, with what the record says of the machine."""
    speeds = {
        (entry["data"], entry["network"], entry["steps"]): entry["images_per_second"] for entry in record["results"]
    }
    columns = list(dict.fromkeys((data, steps) for data, _, steps in speeds))
    head = ["network", "batch", *(f"{data}, {format_count(steps, 'attack step')}" for data, steps in columns)]
    head.append(f"hours for {ANCHOR_EPOCHS} epochs on CIFAR-10, {format_count(7, 'attack step')}")
    rows = []
    for network, batch in record["batches"].items():
        hours = ANCHOR_EPOCHS * ANCHOR_IMAGES / speeds["CIFAR-10", network, 7] / 3600
        cells = (f"{speeds[data, network, steps]:,.0f}" for data, steps in columns)
        rows.append((network, str(batch), *cells, f"{hours:.1f}"))
    return to_markdown(head, rows)


def text() -> str:
    """benchmarks/schedule.md."""
    lines = [HEAD, THROUGHPUT, describe_throughput(read_json(RECORD)), ""]
    for title, (parts, limit) in STUDIES.items():
        shown, hours = table(parts)
        lines += [f"## {title}", "", f"The total is {hours:.1f} process-hours; the limit is {limit}.", "", shown, ""]
    return "\n".join(lines)


def write() -> None:
    (BENCHMARKS / "schedule.md").write_text(text())
