"""Measure a run by how many threads it uses and how they wait: python benchmarks/threads.py [--quick].

Six epochs of experiments/trades_gradmatch.yaml, alone and beside busy processes, started as `advcore run`. The
variants take turns, so that a change of the machine's speed meets all of them. A run that takes longer than the limit
is ended and counts as that long. Busy processes are loops that do nothing else. Then attack passes of networks of
several sizes, with one thread and with all: from which size on more threads are faster. The record goes to
benchmarks/records/threads.json, the page to benchmarks/threads.md, its ratios into docs/speed.md.
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

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported, as `advcore run` does

import torch
import torch.nn.functional as F
from figures import between
from torch import Tensor, nn

from advcore.errors import counted
from advcore.files import read_json, write_json
from advcore.heap import keep_freed_memory
from advcore.models import MODELS
from advcore.models.base import multiply_adds
from advcore.reporting.tables import to_markdown
from advcore.runner.environment import environment
from advcore.threads import ONE_THREAD_BELOW, core_limit

HERE = Path(__file__).parent
RECORD = HERE / "records" / "threads.json"
PAGE = HERE / "threads.md"
SPEED = HERE.parent / "docs" / "speed.md"
EXPERIMENT = HERE.parent / "experiments" / "trades_gradmatch.yaml"
CORES = str(core_limit().count)
VARIANTS = {
    "advcore": {},
    "all cores, sleeping": {"OMP_NUM_THREADS": CORES},
    "all cores, spinning": {"OMP_NUM_THREADS": CORES, "GOMP_SPINCOUNT": "300000"},
}
"""What each variant adds to the environment; 300,000 spins are GNU OpenMP's own default."""

SIZES = [
    ("small_cnn", {"width": 16}, (1, 8, 8), 64),
    ("small_cnn", {"width": 32}, (1, 8, 8), 64),
    ("small_cnn", {"width": 16}, (1, 8, 8), 256),
    ("small_cnn", {"width": 16}, (3, 32, 32), 32),
    ("small_cnn", {"width": 32}, (1, 8, 8), 256),
    ("small_cnn", {"width": 16}, (3, 32, 32), 128),
    ("small_cnn", {"width": 32}, (3, 32, 32), 128),
    ("resnet18", {"stem": "cifar"}, (3, 32, 32), 8),
]
"""Model, its settings, the images' shape, examples in a batch."""

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
    """Time every variant alone and beside busy loops, the ways that advcore does not take only once beside them."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"alone": [], "busy": []} for name in VARIANTS}
    for repetition in range(repetitions):
        for name in VARIANTS:
            seconds[name]["alone"].append(time_run(name, epochs, limit))
        with busy_loops(BUSY):
            for name in VARIANTS:
                if name == "advcore" or repetition == 0:
                    seconds[name]["busy"].append(time_run(name, epochs, limit))
    return {
        "environment": environment(torch.device("cpu")),
        "epochs": epochs,
        "busy": BUSY,
        "limit": limit,
        "seconds": seconds,
        "sizes": [measure_size(*case, rounds=2 + 4 * repetitions) for case in SIZES],
    }


def attack_pass(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Do what each attack step costs: a forward pass, and a backward pass to the images."""
    z = x.detach().requires_grad_(True)
    torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)


def measure_size(name: str, settings: dict, shape: tuple[int, ...], batch: int, *, rounds: int) -> dict:
    """Time attack passes with one thread and with all, which take turns; medians, in seconds a pass."""
    keep_freed_memory()
    model = MODELS[name](**settings).body(10, shape).eval().requires_grad_(False)
    model = model.to(memory_format=torch.channels_last)
    x, y = torch.rand(batch, *shape), torch.arange(batch) % 10
    work = multiply_adds(model, x[:2]) * batch
    passes = max(1, int(2e8 / work))
    seconds: dict[int, list[float]] = {1: [], int(CORES): []}
    for _ in range(rounds):
        for threads, times in seconds.items():
            torch.set_num_threads(threads)
            attack_pass(model, x, y)
            started = time.perf_counter()
            for _ in range(passes):
                attack_pass(model, x, y)
            times.append((time.perf_counter() - started) / passes)
    one, every = (statistics.median(times) for times in seconds.values())
    about = f"{name}, width {settings['width']}" if "width" in settings else name
    return {"model": about, "shape": shape, "batch": batch, "multiply_adds": work, "one": one, "all": every}


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
        f"Device {where['device']}, {counted(where['threads'], 'thread')}, torch {where['torch']}. Median, and the "
        "range; variants take turns. Spinning is GNU OpenMP's default. advcore lets threads sleep while they wait, and "
        "takes one alone where the network is small, as here.",
        "",
        to_markdown(header, rows),
        "",
        "## From which size on more threads are faster",
        "",
        "A forward pass and a backward pass to the images, with one thread and with all, which sleep while they wait. "
        f"Below {ONE_THREAD_BELOW / 1e6:.0f} million multiply-adds in a batch's forward pass advcore takes one.",
        "",
        to_markdown(
            ("network", "images", "batch", "million multiply-adds", "all cores / one thread"), size_rows(record)
        ),
    ]
    return "\n".join(lines) + "\n"


def size_rows(record: dict) -> list[tuple[str, ...]]:
    """The rows of the second table, by size; the last column is a ratio of seconds."""
    rows = []
    for case in sorted(record["sizes"], key=lambda case: case["multiply_adds"]):
        shape = " x ".join(map(str, case["shape"]))
        work, slower = case["multiply_adds"] / 1e6, case["all"] / case["one"]
        rows.append((case["model"], shape, str(case["batch"]), f"{work:,.0f}", f"{slower:.2f}"))
    return rows


def sentence(record: dict) -> str:
    """What docs/speed.md says of the record."""
    spinning = format_seconds(record["seconds"]["all cores, spinning"]["busy"], record["limit"])
    own_busy, own_alone = ("advcore", "busy"), ("advcore", "alone")
    spinning_busy = ratio(record, ("all cores, spinning", "busy"), own_busy)
    spinning_alone = ratio(record, ("all cores, spinning", "alone"), own_alone)
    sleeping_alone = ratio(record, ("all cores, sleeping", "alone"), own_alone)
    return (
        f"{record['epochs']} epochs of the main job beside {record['busy']} busy processes on "
        f"{record['environment']['threads']} cores take {ratio(record, own_busy, own_alone):.1f} times as long as "
        f"alone; with a spinning thread a core they took {spinning} seconds there, {spinning_busy:.1f} times as long "
        f"or more. Alone, a spinning thread a core takes {spinning_alone:.2f} times as long as advcore's default, a "
        f"sleeping one {sleeping_alone:.2f} times ([measured](../benchmarks/threads.md))."
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
