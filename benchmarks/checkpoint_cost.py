"""What saving takes of a run: python benchmarks/checkpoint_cost.py [--quick].

One run of experiments/trades_gradmatch.yaml, as `advcore run` does it. After each epoch its state is written, synced,
read back and the oldest removed; the seconds of that over the seconds of the epoch before it are one observation, and
the median of them is told. The record goes to benchmarks/records/checkpoint_cost.json, the page to
benchmarks/checkpoint_cost.md.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from advcore.config import load as config
from advcore.errors import format_count
from advcore.files import read_json, write_json
from advcore.reporting.tables import to_markdown
from advcore.run import checkpoints
from advcore.run.environment import describe_environment
from advcore.run.prepare import prepare
from advcore.run.run import run

HERE = Path(__file__).parent
RECORD, PAGE = HERE / "records" / "checkpoint_cost.json", HERE / "checkpoint_cost.md"
EXPERIMENT = HERE.parent / "experiments" / "trades_gradmatch.yaml"
QUICK = ("training.epochs=4", "data.train_size=200", "data.test_size=60", "evaluation.attacks.0.restarts=1")


def measured(quick: bool) -> dict:
    """Seconds of each epoch, and of the writing of its state; and the bytes of the last."""
    prepared, seconds, original = prepare(config.load(EXPERIMENT, QUICK if quick else ())), [], checkpoints.save

    def save(*arguments) -> None:
        started = time.perf_counter()
        original(*arguments)
        seconds.append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        checkpoints.save = save
        try:
            record = run(prepared, Path(folder) / "run")
        finally:
            checkpoints.save = original
        newest = max(checkpoints.states_folder(Path(folder) / "run").iterdir())
        size = sum(path.stat().st_size for path in newest.iterdir())
    epochs = [entry["seconds"] for entry in record.epochs]
    actions = [entry["action"] for entry in record.epochs]
    where = describe_environment(prepared.data.train.device)
    return {"quick": quick, "environment": where, "actions": actions, "epochs": epochs, "saves": seconds, "bytes": size}


def shares(record: dict) -> list[float]:
    """Of each epoch, what its state took."""
    return [save / epoch for save, epoch in zip(record["saves"], record["epochs"], strict=True)]


def page(record: dict) -> str:
    """The page of a record."""
    found, where = shares(record), record["environment"]
    rows = [("seconds of an epoch", *_spread(record["epochs"], "{:.3f}"))]
    rows += [("seconds of writing its state", *_spread(record["saves"], "{:.4f}"))]
    rows += [("share, %", *_spread([100 * share for share in found], "{:.2f}"))]
    lines = [
        "# What saving takes of a run",
        "",
        f"experiments/{EXPERIMENT.name}: after each of its {len(found)} epochs the whole state, "
        f"{record['bytes'] / 1e3:.0f} kB, is written, synced, and read back.",
        f"Device {where['device']}, {format_count(where['threads'], 'thread')}; a share is one epoch's own, so other "
        "work on the machine slows both of its parts.",
        "",
        to_markdown(("", "median", "least", "most"), rows),
    ]
    return "\n".join(lines) + "\n"


def _spread(values: list[float], form: str) -> tuple[str, ...]:
    return tuple(form.format(value) for value in (statistics.median(values), min(values), max(values)))


def main(quick: bool = False) -> None:
    write_json(RECORD, measured(quick))
    PAGE.write_text(page(read_json(RECORD)))
    print(PAGE.read_text())


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
