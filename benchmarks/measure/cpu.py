"""Measure a PGD-10 training step on a CPU: ours, published loops, two other libraries' attacks, the passes alone.

python benchmarks/measure/cpu.py [--quick] [--seconds 330] [--out FOLDER]

Each way to do a step runs in its own process, so that none inherits the memory of another one. One process works at a
time, and the ways take turns (A B C A B C ...), so that a change of the machine's load affects all of them.
Threads are those of the environment; waiting threads sleep unless the environment says otherwise. A library that is
not installed is left out; record and page say so. The record goes to FOLDER/cpu.json.
"""

import argparse
import contextlib
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import steps
import torch
from records import RECORDS, TRIALS
from torch import Tensor, nn

from advcore.files import write_json
from advcore.run.environment import describe_environment
from advcore.runtime.heap import keep_freed_memory
from advcore.runtime.precision import Speed, find_family

CPU = torch.device("cpu")
FIRST_DEFAULTS = Speed(channels_last=False, fused=False)
"""What a CPU took by default before there was a table."""
MISSING = "missing"
WARM_UP, LEAST_ROUNDS = 1, 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network and a batch size; `share` is the part of the time that it may take."""

    model: str
    settings: dict
    batch: int
    share: float


CASES = {
    "small CNN": Case(model="small_cnn", settings={"width": 16}, batch=128, share=0.45),
    "ResNet-18": Case(model="resnet18", settings={"stem": "cifar"}, batch=8, share=0.55),
}
QUICK_CASES = {"small CNN": Case(model="small_cnn", settings={"width": 4}, batch=8, share=1.0)}

Build = Callable[[nn.Module, Tensor, Tensor], steps.Step]


def with_torchattacks(model: nn.Module, x: Tensor, y: Tensor) -> steps.Step:
    """A step of a standard loop around torchattacks' PGD, which switches the model's mode."""
    import torchattacks

    attack = torchattacks.PGD(model, eps=steps.EPS, alpha=steps.STEP_SIZE, steps=steps.STEPS, random_start=True)
    return _standard_loop(model, x, y, lambda: attack(x, y))


def with_foolbox(model: nn.Module, x: Tensor, y: Tensor) -> steps.Step:
    """A step of a standard loop around foolbox's LinfPGD, by `run`, which spares the final forward pass."""
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=steps.STEP_SIZE, steps=steps.STEPS, random_start=True)

    def perturb() -> Tensor:
        wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device=x.device)
        return attack.run(wrapped, x, y, epsilon=steps.EPS)

    return _standard_loop(model, x, y, perturb)


def _standard_loop(model: nn.Module, x: Tensor, y: Tensor, perturb: Callable[[], Tensor]) -> steps.Step:
    optimizer = steps.sgd(model)

    def once() -> float:
        x_adv = perturb()
        return steps.learn(model, optimizer, lambda: nn.functional.cross_entropy(model(x_adv), y))

    return once


def floor(model: nn.Module, x: Tensor, y: Tensor) -> steps.Step:
    """The passes alone, in the layout that our step takes by default, with the images already in it."""
    speed = Speed().resolve(CPU, family=find_family(model))
    if speed.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return steps.passes_alone(speed.lay_out(model), x, y, forward=lambda model, images: model(images))


def ours_with(asked: Speed, build=steps.ours) -> Build:
    """Our step with the settings `asked`; those that are left out are the defaults."""

    def bind(model: nn.Module, x: Tensor, y: Tensor) -> steps.Step:
        speed = asked.resolve(CPU, family=find_family(model))
        return speed.activate()(build(speed.lay_out(model), x, y, speed))

    return bind


@dataclass(frozen=True)
class Way:
    """How a step is done; `kept`: in a process that keeps freed memory, as the command line's does."""

    build: Build
    kept: bool = False


WAYS = {
    "published": Way(steps.published),
    "torchattacks": Way(with_torchattacks),
    "foolbox": Way(with_foolbox),
    "first defaults": Way(ours_with(FIRST_DEFAULTS)),
    "library": Way(ours_with(Speed())),
    "floor": Way(floor),
    "command line": Way(ours_with(Speed()), kept=True),
    "floor, kept": Way(floor, kept=True),
    "published, kept": Way(steps.published, kept=True),
    "published TRADES": Way(steps.published_trades),
    "TRADES": Way(ours_with(Speed(), steps.ours_trades), kept=True),
}


class Worker:
    """A process that does steps one way, each when it is asked to."""

    def __init__(self, case: str, way: str, quick: bool):
        command = [sys.executable, __file__, "--worker", case, way, *(["--quick"] if quick else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> str:
        """Wait for the next line of the worker."""
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self.process.args} ended without an answer")
        return line

    def measure(self) -> tuple[float, float, int]:
        """Do one step: seconds, seconds of processor time, and pages of memory that the system mapped for it."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        seconds, busy, pages = self.hear().split()
        return float(seconds), float(busy), int(pages)

    def close(self) -> None:
        """End the worker."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def work(case: Case, way: Way) -> None:
    """Be a worker: do a step for each line on the standard input, and print its seconds and pages."""
    if way.kept and not keep_freed_memory():
        print(MISSING)
        return
    x, y = steps.batch_of(case.batch, CPU)
    torch.manual_seed(0)
    try:
        once = way.build(steps.seeded_network(case.model, **case.settings), x, y)
    except ImportError:
        print(MISSING)
        return
    for _ in range(WARM_UP):
        once()
    print("ready", flush=True)
    for _ in sys.stdin:
        pages, busy, started = _mapped_pages(), time.process_time(), time.perf_counter()
        once()
        seconds = time.perf_counter() - started
        print(seconds, time.process_time() - busy, _mapped_pages() - pages, flush=True)


def _mapped_pages() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@contextlib.contextmanager
def working(case: str, quick: bool) -> Iterator[dict[str, Worker]]:
    """Start a warm worker for each way that is available here; end them afterwards."""
    workers = {name: Worker(case, name, quick) for name in WAYS}
    try:
        answers = {name: worker.hear() for name, worker in workers.items()}
        yield {name: worker for name, worker in workers.items() if answers[name] != MISSING}
    finally:
        for worker in workers.values():
            worker.close()


def measure_case(name: str, case: Case, quick: bool, until: float) -> dict:
    """Measure all ways in turn until the moment `until`, at least LEAST_ROUNDS times each."""
    with working(name, quick) as workers:
        seconds: dict[str, list[float]] = {way: [] for way in workers}
        busy: dict[str, list[float]] = {way: [] for way in workers}
        pages: dict[str, list[int]] = {way: [] for way in workers}
        rounds = 0
        while rounds < LEAST_ROUNDS or (time.monotonic() < until and not quick):
            for way, worker in workers.items():
                taken, processor_time, mapped = worker.measure()
                seconds[way].append(round(taken, 5))
                busy[way].append(round(processor_time, 5))
                pages[way].append(mapped)
            rounds += 1
        missing = [way for way in WAYS if way not in workers]
        measured = {"seconds": seconds, "processor_seconds": busy, "pages": pages}
        return {"batch": case.batch, "rounds": rounds, "missing": missing} | measured


def processor() -> str:
    """Name the processor, as the system does."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def measure(quick: bool, seconds: float) -> dict:
    """Measure every case; the record."""
    started, spent = time.monotonic(), 0.0
    machine = {"processor": processor(), "cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    waiting = os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    found = {}
    for name, case in (QUICK_CASES if quick else CASES).items():
        spent += case.share
        found[name] = measure_case(name, case, quick, started + spent * seconds)
        print(name, {way: min(times) for way, times in found[name]["seconds"].items()}, flush=True)
    machine |= {"waiting": waiting, "load_after": os.getloadavg()[0]}
    return {"quick": quick, "environment": describe_environment(CPU), "machine": machine, "cases": found}


def main(arguments: list[str] | None = None) -> dict | None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=330, help="no round starts after this time")
    parser.add_argument("--quick", action="store_true", help="toy sizes, as a trial; the record goes to runs/")
    parser.add_argument("--out", type=Path, help="folder of the record")
    parser.add_argument("--worker", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        case, way = options.worker
        work((QUICK_CASES if options.quick else CASES)[case], WAYS[way])
        return None
    record = measure(options.quick, options.seconds)
    out = options.out or (TRIALS if options.quick else RECORDS)
    write_json(out / "cpu.json", record)
    return record


if __name__ == "__main__":
    main()
