"""Measure the cost of saving a run: python benchmarks/measure/checkpoint_cost.py [--quick].

One run of experiments/trades_gradmatch.yaml, as `advcore run` does it. After each epoch its state is written, synced,
read back and the oldest removed; the seconds of that over the seconds of the epoch before it are one observation, and
the page shows their median. The record goes to benchmarks/records/checkpoint_cost.json.
"""

import sys
import tempfile
import time
from pathlib import Path

from records import EXPERIMENTS, ROOT, save

from advcore.config import load as config
from advcore.run import checkpoints
from advcore.run.environment import describe_environment
from advcore.run.prepare import prepare
from advcore.run.run import run

EXPERIMENT = EXPERIMENTS / "trades_gradmatch.yaml"
QUICK = ("training.epochs=4", "data.train_size=200", "data.test_size=60", "evaluation.attacks.0.restarts=1")


def measured(quick: bool) -> dict:
    """Return the seconds of each epoch and of saving its state, and the bytes of the last state."""
    prepared, seconds, original = prepare(config.load(EXPERIMENT, QUICK if quick else ())), [], checkpoints.save

    def save(*arguments) -> None:
        started = time.perf_counter()
        original(*arguments)
        seconds.append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        checkpoints.save = save
        try:
            record = run(prepared, Path(folder) / "run")
        finally:
            checkpoints.save = original
        newest = max(checkpoints.locate_states(Path(folder) / "run").iterdir())
        size = sum(path.stat().st_size for path in newest.iterdir())
    epochs = [entry["seconds"] for entry in record.epochs]
    actions = [entry["action"] for entry in record.epochs]
    where = describe_environment(prepared.data.train.device)
    return {"quick": quick, "environment": where, "actions": actions, "epochs": epochs, "saves": seconds, "bytes": size}


def main(quick: bool = False) -> None:
    save("checkpoint_cost", measured(quick), quick=quick)


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
