"""The cost of saving a run: benchmarks/checkpoint_cost.md.

Made from the record of benchmarks/measure/checkpoint_cost.py.
"""

import statistics

from figures import BENCHMARKS, RECORDS

from advcore.errors import format_count
from advcore.files import read_json
from advcore.reporting.tables import to_markdown

RECORD = RECORDS / "checkpoint_cost.json"
PAGE = BENCHMARKS / "checkpoint_cost.md"


def shares(record: dict) -> list[float]:
    """The seconds of saving each epoch's state over those of the epoch."""
    return [save / epoch for save, epoch in zip(record["saves"], record["epochs"], strict=True)]


def page(record: dict) -> str:
    """The page of a record."""
    found, where = shares(record), record["environment"]
    rows = [("seconds per epoch", *_spread(record["epochs"], "{:.3f}"))]
    rows += [("seconds to save the state", *_spread(record["saves"], "{:.4f}"))]
    rows += [("share of the epoch, %", *_spread([100 * share for share in found], "{:.2f}"))]
    lines = [
        "# The cost of saving a run",
        "",
        f"A run of experiments/trades_gradmatch.yaml has {len(found)} epochs. After each epoch its whole state, "
        f"{record['bytes'] / 1e3:.0f} kB, is written, synced, and read back.",
        f"The device was {where['device']} with {format_count(where['threads'], 'thread')}. The share is the seconds "
        "to save the state divided by the seconds of the same epoch, so other work on the machine slows both.",
        "",
        to_markdown(("quantity, over epochs", "median", "minimum", "maximum"), rows),
    ]
    return "\n".join(lines) + "\n"


def _spread(values: list[float], form: str) -> tuple[str, ...]:
    return tuple(form.format(value) for value in (statistics.median(values), min(values), max(values)))


def write() -> None:
    """Write the page from the committed record."""
    PAGE.write_text(page(read_json(RECORD)))
