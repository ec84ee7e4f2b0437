"""A selection from a pool of a million images: python benchmarks/measure/pool_scale.py [--rows N] [--threads N].

Seconds, memory and gradient error of GradMatch and CRAIG in random blocks, per class, 10 % of N generated rows of the
shape of CIFAR-10 and ResNet-18 (10 classes, 512 features), read from a file of float32 numbers; and, on 20,000 of these
rows, their gradient error over that of the exact solvers. Each case is saved when it is done: run it again to continue.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from records import RECORDS, TRIALS, save
from solvers import environment, measured, set_threads, spawned
from torch import Tensor

from advcore.files import read_json
from advcore.gradients.base import Measurement
from advcore.rng import Stream
from advcore.rows import FactoredRows
from advcore.rows.on_disk import FactorStore
from advcore.selection.partition import Problem, Split, split_per_class
from advcore.selection.quality import measure_gradient_error, measure_random_error
from advcore.selection.solve import solve
from advcore.solvers import Craig, GradMatch

Facts = dict
CLASSES, FEATURES, CLUSTERS = 10, 512, 50
BUDGET, BLOCK = 0.1, 2000
SUBSAMPLE = 20_000
SOLVERS = {"GradMatch": GradMatch, "CRAIG": Craig}
PIECE = 10_000  # rows that are generated, and written, at a time


def generate(folder: Path, n: int) -> None:
    """Write n rows: of each class 50 clusters of features, and the residuals of one head at them, in random order."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, CLUSTERS, FEATURES, generator=generator)
    head = 1.5 * torch.randn(FEATURES, CLASSES, generator=generator) / FEATURES**0.5
    with open(folder / "rows", "wb") as rows, open(folder / "labels", "wb") as labels:
        for start in range(0, n, PIECE):
            count = min(PIECE, n - start)
            y = torch.randint(CLASSES, (count,), generator=generator)
            cluster = torch.randint(CLUSTERS, (count,), generator=generator)
            noise = torch.randn(count, FEATURES, generator=generator)
            features = (centres[y, cluster] + noise / 2).relu()
            target = torch.nn.functional.one_hot(y, CLASSES).float()
            residuals = (features @ head + target).softmax(1) - target
            rows.write(torch.cat([residuals, features], 1).numpy().tobytes())
            labels.write(y.numpy().tobytes())
    with open(folder / "rows", "rb") as rows:
        os.fsync(rows.fileno())
        os.posix_fadvise(rows.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that a selection reads them from the disk


def read(folder: Path, count: int | None) -> tuple[FactoredRows, Tensor]:
    """The first `count` rows (None: all), streamed once into the store that a selection's rows spill to; and labels."""
    labels = torch.from_numpy(np.fromfile(folder / "labels", dtype=np.int64, count=count or -1))
    passes = ("adversarial",)
    with tempfile.TemporaryDirectory() as temporary:
        store = FactorStore(passes, len(labels), Path(temporary))
        with open(folder / "rows", "rb") as file:
            for part in labels.split(PIECE):
                numbers = np.fromfile(file, dtype=np.float32, count=len(part) * (CLASSES + FEATURES))
                rows = torch.from_numpy(numbers).view(len(part), -1)
                store.append(passes[0], rows[:, :CLASSES], rows[:, CLASSES:])
        return FactoredRows(**store.factors()), labels


def split(rows: FactoredRows, labels: Tensor) -> list[Problem]:
    stream = Stream(seed=0, purpose="blocks")
    given = {"budget": BUDGET, "block_size": 128, "blocks": "permuted", "stream": stream}
    return split_per_class(Split(rows=rows, labels=labels, goal=Measurement(rows=None, labels=None), **given))


def select(folder: Path, name: str, count: int | None, block: int | None, threads: int) -> Facts:
    """One selection, reading included, and how far its gradient and a random subset's are from that of all rows."""
    set_threads(threads)
    stream = Stream(seed=0, purpose="solver")

    def choose():
        rows, labels = read(folder, count)
        problems = split(rows, labels)
        return rows, problems, solve(SOLVERS[name](block_size=block), problems, stream, rows.device)

    (rows, problems, solution), facts = measured(choose)
    total = rows.total()
    return {
        **facts,
        "solver": name,
        "n": len(rows),
        "k": len(solution.indices),
        "block_size": block,
        "gradient_error": measure_gradient_error(rows, solution.indices, solution.weights, total),
        "gradient_error_random": measure_random_error(rows, problems, solution.indices, stream, total),
        "fallbacks": [str(event) for event in solution.fallbacks],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    is_trial = options.rows < 1_000_000
    path = (TRIALS if is_trial else RECORDS) / "pool_scale.json"
    record = read_json(path) if path.exists() else {"environment": environment(options.threads), "cases": []}
    cases = [(name, None, BLOCK) for name in SOLVERS]
    cases += [(name, SUBSAMPLE, block) for name in SOLVERS for block in (None, BLOCK, BLOCK // 2, BLOCK // 4)]
    done = {(case["solver"], case["n"], case["block_size"]) for case in record["cases"]}
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), options.rows)
        for name, count, block in cases:
            if (name, count or options.rows, block) in done:
                continue
            facts = spawned(select, Path(folder), name, count, block, options.threads)
            record["cases"].append(facts)
            print(facts, flush=True)
            save("pool_scale", record, quick=is_trial)


if __name__ == "__main__":
    main()
