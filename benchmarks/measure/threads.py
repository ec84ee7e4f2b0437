"""Measure a run alone and next to busy processes, by how OpenMP's threads wait.

python benchmarks/measure/threads.py [--quick]

Six epochs of experiments/trades_gradmatch.yaml, started as `advcore run` each time. The variants take turns, so that a
change of the machine's speed affects all of them. A run that exceeds the limit is terminated and counts as the
limit. Busy processes are loops that do nothing else. The record goes to benchmarks/records/threads.json.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import torch
from records import EXPERIMENTS, save

from advcore.run.environment import describe_environment
from advcore.runtime.threads import measure_core_limit

EXPERIMENT = EXPERIMENTS / "trades_gradmatch.yaml"
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
    """Time every variant alone and next to busy processes; variants other than advcore's only once next to them."""
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


def main(quick: bool = False) -> None:
    record = measure(1, 2, 20.0) if quick else measure(5, 6, LIMIT)
    save("threads", record, quick=quick)


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
