"""Measure the speed of training and selection on a device, against a plain loop and against the passes alone.

python benchmarks/measure/gpu.py [PART ...] [--quick] [--device cuda] [--seconds 540] [--out FOLDER]

Parts: train (a PGD-10 step, each optimisation switched on in turn), select (the selection's attack, and what is not
attack), solve (CIFAR's and ImageNet's shape). A part that does not fit into the time is left out; the record says so.
The record goes to FOLDER/gpu.json, by default to benchmarks/records; commit only that of a CUDA device.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from records import RECORDS, TRIALS
from solver_rows import imagenet_class, synthetic
from steps import ATTACK, batch_of, ours, passes_alone, pictures, published, seeded_network
from torch import nn

from advcore.cost import CostLedger
from advcore.files import write_json
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.last_layer import last_layer_rows
from advcore.objectives import Trades
from advcore.rng import Stream
from advcore.run.environment import describe_environment
from advcore.runtime.device import force_float32, has_graphs, mark, measure_peak_memory, measure_seconds, wait
from advcore.runtime.precision import PLAIN, Speed
from advcore.selection.partition import Problem
from advcore.selection.solve import solve_all
from advcore.solvers import SOLVERS

FLOAT32 = "ours, float32"
LADDER = {
    FLOAT32: Speed(autocast="none", channels_last=False, fused=False, deferred=False),
    "+ TF32": Speed(
        autocast="none", channels_last=False, fused=False, deferred=False
    ),  # in convolutions, as torch has it
    "+ channels last": Speed(autocast="none", channels_last=True, fused=False, deferred=False),
    "+ bfloat16": Speed(autocast="bfloat16", channels_last=True, fused=False, deferred=False),
    "+ fused step": Speed(autocast="bfloat16", channels_last=True, fused=True, deferred=False),
    "+ no waiting": Speed(autocast="bfloat16", channels_last=True, fused=True, deferred=True),
    "+ compiled": Speed(autocast="bfloat16", channels_last=True, fused=True, deferred=True, compiled=True),
    "+ attack as one graph": Speed(
        autocast="bfloat16", channels_last=True, fused=True, deferred=True, compiled=True, graphed=True
    ),
}
MODELS_TIMED = {"resnet18": {"stem": "cifar"}, "wide_resnet28_10": {}}


def network(name: str, device: torch.device, quick: bool) -> nn.Module:
    if quick:
        return seeded_network("small_cnn", width=8).to(device)
    return seeded_network(name, **MODELS_TIMED[name]).to(device)


def per_second(work: Callable[[], object], examples: int, device: torch.device, repeats: int) -> float:
    """Return examples per second: the median of three rounds of `repeats` calls, after one round that warms up."""
    found = []
    for _ in range(4):
        wait(device)
        start = mark(device)
        for _ in range(repeats):
            work()
        found.append(repeats * examples / measure_seconds(start, mark(device)))
    return sorted(found[1:])[1]


def train(options: argparse.Namespace) -> Iterator[dict]:
    """Return the images per second of a PGD-10 training step."""
    device, batch, repeats = options.device, 16 if options.quick else 128, 1 if options.quick else 8
    for name in list(MODELS_TIMED)[: 1 if options.quick else 2]:
        x, y = batch_of(batch, device)
        with force_float32():
            plain = per_second(published(network(name, device, options.quick), x, y), batch, device, repeats)
        yield {"model": name, "way": "published loop", "batch": batch, "per_second": plain}
        for way, asked in LADDER.items():
            if asked.graphed and not has_graphs(device):
                continue  # a trial of this script on a CPU
            speed = asked.resolve(device)
            model = speed.lay_out(network(name, device, options.quick))
            with speed.activate(), force_float32() if way == FLOAT32 else nullcontext():
                found = per_second(ours(model, x, y, speed), batch, device, repeats)
                floor = per_second(passes_alone(model, x, y), batch, device, repeats)
            yield {"model": name, "way": way, "batch": batch, "per_second": found, "floor": floor}


def forget_peak(device: torch.device) -> None:
    """Reset `measure_peak_memory` on CUDA; other devices keep their peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def select(options: argparse.Namespace) -> Iterator[dict]:
    """Return the images per second of a selection's attack, and the seconds of rows and solve."""
    device, n = options.device, 200 if options.quick else 10_000
    source = pictures(n, device)
    for name in list(MODELS_TIMED)[: 1 if options.quick else 2]:
        for chunk in (32,) if options.quick else (256, 1024):
            for way, speed in {"float32, TF32": PLAIN, "default": Speed().resolve(device)}.items():
                forget_peak(device)
                model, ledger = speed.lay_out(network(name, device, options.quick)), CostLedger()
                how = {"objective": Trades(), "attack": ATTACK, "chunk_size": chunk}
                with speed.activate():
                    last_layer_rows(
                        model, pictures(chunk, device), MeasurementSettings(stream=STREAM, ledger=CostLedger(), **how)
                    )
                    rows = last_layer_rows(model, source, MeasurementSettings(stream=STREAM, ledger=ledger, **how)).rows
                labels = source.labels().to(device)
                with ledger.phase("solve", device):
                    members = [(labels == c).nonzero()[:, 0] for c in range(10)]
                    problems = [
                        Problem(f"{c}", lambda rows=rows, i=i: rows.take(i), i, len(i) // 2)
                        for c, i in enumerate(members)
                    ]
                    solve_all(SOLVERS["gradmatch"](), problems, STREAM)
                seconds = {phase: ledger.seconds[phase] for phase in ("attack", "rows", "solve")}
                told = {"model": name, "way": way, "chunk": chunk, "n": n, **seconds}
                yield told | {"per_second": n / seconds["attack"], "peak_memory": measure_peak_memory(device)}


STREAM = Stream(seed=0, purpose="selection")


def solve(options: argparse.Namespace) -> Iterator[dict]:
    """Seconds of whole solves; rows are made on the host and moved, which is reported separately."""
    shapes = {"CIFAR-10": (10, 5000, 512, 0.5), "ImageNet-1k": (1000, 1281, 2048, 0.1)}
    shapes = {"toy": (3, 60, 8, 0.5)} if options.quick else shapes
    for shape, (classes, n, features, budget) in shapes.items():
        for solver in ("gradmatch", "craig"):
            made = 0.0
            forget_peak(options.device)

            def load(label: int, c=classes, n=n, d=features):
                nonlocal made
                wait(options.device)  # what solves asked for is theirs
                started = time.perf_counter()
                kind = (
                    imagenet_class(label, n, classes=c, features=d)
                    if c == 1000
                    else synthetic(n, features=d, seed=label)
                )
                rows = type(kind)(
                    residuals=tuple(part.to(options.device) for part in kind.residuals),
                    features=tuple(part.to(options.device) for part in kind.features),
                )
                wait(options.device)
                made += time.perf_counter() - started
                return rows

            everything = torch.arange(n, device=options.device)
            problems = [Problem(f"{c}", lambda c=c: load(c), everything, round(budget * n)) for c in range(classes)]
            started = time.perf_counter()
            answers, _ = solve_all(SOLVERS[solver](), problems, STREAM)
            wait(options.device)
            whole = time.perf_counter() - started
            told = {"shape": shape, "solver": solver, "picked": sum(len(answer.indices) for answer in answers)}
            yield told | {"seconds": whole - made, "making": made, "peak_memory": measure_peak_memory(options.device)}


PARTS = {"train": train, "select": select, "solve": solve}


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument(
        "--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    parser.add_argument("--seconds", type=float, default=540, help="no part starts after this time")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to check that it runs")
    parser.add_argument("--out", type=Path, help="folder of the record; a quick one's is runs/")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"PART must be of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    options.out = options.out or (TRIALS if options.quick else RECORDS)
    started, found, left_out = time.monotonic(), {}, []
    record = {
        "quick": options.quick,
        "environment": describe_environment(options.device),
        "found": found,
        "left_out": left_out,
    }
    for name in options.parts or PARTS:
        found[name], rest = [], PARTS[name](options)
        while time.monotonic() - started < options.seconds:
            one = next(rest, None)
            if one is None:
                break
            found[name].append(one)
            print(name, one, flush=True)
            write_json(options.out / "gpu.json", record)  # what is done is kept
        else:
            left_out.append(name)
    write_json(options.out / "gpu.json", record)
    return record


if __name__ == "__main__":
    main()
