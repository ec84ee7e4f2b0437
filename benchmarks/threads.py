"""Measure a run alone and beside other processes, by how OpenMP's threads wait: python benchmarks/threads.py [--quick].

Six epochs of experiments/trades_gradmatch.yaml, started as `advcore run` each time. The variants take turns, so that a
change of the machine's speed meets all of them. A run that takes longer than the limit is ended and counts as that
long. Busy processes are loops that do nothing else. The record goes to benchmarks/records/threads.json, the page to
benchmarks/threads.md, its ratios into docs/speed.md.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from figures import between

from advcore.errors import format_count
from advcore.files import read_json, write_json
from advcore.reporting.tables import to_markdown
from advcore.run.environment import describe_environment
from advcore.runtime.threads import SPINS, measure_core_limit

HERE = Path(__file__).parent
RECORD = HERE / "records" / "threads.json"
PAGE = HERE / "threads.md"
SPEED = HERE.parent / "docs" / "speed.md"
EXPERIMENT = HERE.parent / "experiments" / "trades_gradmatch.yaml"
CORES = str(measure_core_limit().count)
VARIANTS = {
    "advcore": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "all cores, sleeping at once": {"OMP_NUM_THREADS": CORES, "GOMP_SPINCOUNT": "0"},
    "all cores, spinning": {"OMP_NUM_THREADS": CORES, "GOMP_SPINCOUNT": "300000"},
}
"""What each variant adds to the environment; 300,000 spins are GNU OpenMP's own default."""

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
BUSY = 2
LIMIT = 100.0
"""Seconds after which a run is ended."""


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep `count` processes busy meanwhile."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def time_run(variant: str, epochs: int, limit: float) -> float:
    """Return the seconds of one run, at most `limit`."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "advcore", "run", str(EXPERIMENT), "--out", f"{folder}/run"]
        command += ["--set", f"training.epochs={epochs}"]
        started = time.perf_counter()
        try:
            subprocess.run(command, env=clean | VARIANTS[variant], stdout=subprocess.DEVNULL, timeout=limit, check=True)
        except subprocess.TimeoutExpired:
            return limit
        return time.perf_counter() - started


def measure(repetitions: int, epochs: int, limit: float) -> dict:
    """Time every variant alone and beside busy loops, the other ways only once beside them."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"alone": [], "busy": []} for name in VARIANTS}
    for repetition in range(repetitions):
        for name in VARIANTS:
            seconds[name]["alone"].append(time_run(name, epochs, limit))
        with busy_loops(BUSY):
            for name in VARIANTS:
                if name == "advcore" or repetition == 0:
                    seconds[name]["busy"].append(time_run(name, epochs, limit))
    where = describe_environment(torch.device("cpu"))
    return {"environment": where, "epochs": epochs, "busy": BUSY, "limit": limit, "seconds": seconds}


def ratio(record: dict, first: tuple[str, str], second: tuple[str, str]) -> float:
    """Return the ratio of two medians, each of a (variant, condition)."""
    values = [statistics.median(record["seconds"][variant][condition]) for variant, condition in (first, second)]
    return values[0] / values[1]


def format_seconds(values: list[float], limit: float) -> str:
    """Show the median and the range; a run that was ended counts as more than the limit."""
    shown = [f"over {limit:.0f}" if value >= limit else f"{value:.0f}" for value in sorted(values)]
    median = statistics.median(values)
    middle = f"over {limit:.0f}" if median >= limit else f"{median:.0f}"
    return middle if len(values) == 1 else f"{middle} ({shown[0]} to {shown[-1]})"


def page(record: dict) -> str:
    """The page of a record."""
    where, limit = record["environment"], record["limit"]
    rows = []
    for name, conditions in record["seconds"].items():
        cells = [format_seconds(conditions[condition], limit) for condition in ("alone", "busy")]
        rows.append((name, *cells, str(len(conditions["alone"])), str(len(conditions["busy"]))))
    header = ("threads", "seconds alone", "seconds beside busy loops", "runs alone", "runs beside")
    lines = [
        "# How threads wait",
        "",
        f"{record['epochs']} epochs of experiments/{EXPERIMENT.name} as `advcore run` does them, imports and the final "
        f"evaluation included, alone and beside {record['busy']} processes that loop.",
        f"Device {where['device']}, {format_count(where['threads'], 'thread')}, torch {where['torch']}. Median, and "
        "the range; variants take turns. Spinning is GNU OpenMP's default. advcore lets a waiting thread look "
        f"{SPINS:,} times before it sleeps.",
        "",
        to_markdown(header, rows),
    ]
    return "\n".join(lines) + "\n"


def sentence(record: dict) -> str:
    """What docs/speed.md says of the record."""
    spinning = format_seconds(record["seconds"]["all cores, spinning"]["busy"], record["limit"])
    busy, alone = ("advcore", "busy"), ("advcore", "alone")
    spinning_busy = ratio(record, ("all cores, spinning", "busy"), busy)
    return (
        f"{record['epochs']} epochs of the main job beside {record['busy']} busy processes on "
        f"{record['environment']['threads']} cores take {ratio(record, busy, alone):.1f} times as long as alone; with "
        f"threads that spin they took {spinning} seconds, {spinning_busy:.1f} times as long. Alone, advcore's default "
        f"takes {ratio(record, alone, ('all cores, spinning', 'alone')):.2f} times as long as threads that spin, and "
        f"{ratio(record, alone, ('one thread', 'alone')):.2f} times as long as one thread "
        "([measured](../benchmarks/threads.md))."
    )


def main(quick: bool = False) -> None:
    record = measure(1, 2, 20.0) if quick else measure(5, 6, LIMIT)
    write_json(RECORD, record)
    write_pages()
    print(PAGE.read_text())


def write_pages() -> None:
    """Write the page and the sentence from the committed record."""
    record = read_json(RECORD)
    PAGE.write_text(page(record))
    SPEED.write_text(between(SPEED.read_text(), "threads", sentence(record)))


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
