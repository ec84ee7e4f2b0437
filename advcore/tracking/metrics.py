"""A run's epochs as rows of numbers: for metrics.jsonl and metrics.csv in its folder, and for trackers."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from advcore.files import write_bytes

FILES = ("metrics.jsonl", "metrics.csv")
_ENTRY = {
    "epoch": "epoch",
    "action": "action",
    "examples": "examples",
    "loss": "loss",
    "lr": "lr",
    "clean": "probe/clean",
    "robust": "probe/robust",
    "headroom": "headroom",
    "seconds": "seconds",
}
_SELECTION = ("k", "gradient_error", "gradient_error_random", "effective_sample_size", "weight_sum")
COLUMNS = (*_ENTRY.values(), "relative_cost", *(f"selection/{name}" for name in _SELECTION))

Row = dict[str, float | str | None]  # an epoch's values by column


def build_rows(epochs: list[dict], selections: list[dict], reference: Mapping[str, float]) -> list[Row]:
    """Return one row per epoch of a record, each with all COLUMNS.

    A value is None where the epoch has no such number, as the values of a selection where there was none. `reference`
    says what costs are relative to, as in the record: operations (`flops`), or passes (`units`) where it has none.
    """
    selection_of = {selection["epoch"]: selection for selection in selections}
    return [_build_row(entry, selection_of.get(entry["epoch"], {}), reference) for entry in epochs]


def _build_row(entry: dict, selection: dict, reference: Mapping[str, float]) -> Row:
    row = {name: entry.get(key) for key, name in _ENTRY.items()}
    unit = "flops" if "flops" in reference else "units"
    cost = entry.get(unit)
    # A run that an older version began has no such counts.
    row["relative_cost"] = None if cost is None else cost / reference[unit]
    return row | {f"selection/{name}": selection.get(name) for name in _SELECTION}


def pick_numbers(row: Row) -> dict[str, float]:
    """Return the numbers of a row, as floats and without the epoch: what a tracker receives."""
    return {name: float(value) for name, value in row.items() if isinstance(value, (int, float)) and name != "epoch"}


def flatten_final(final: Mapping[str, dict], cost: float) -> dict[str, float]:
    """Flatten the evaluations of a record.

    For example {"final/last/clean": 0.98, "final/last/linf_pgd": 0.9, "final/last/linf_pgd_2": 0.8, ...}.
    """
    values = {"final/relative_cost": cost}
    for checkpoint, evaluation in final.items():
        values[f"final/{checkpoint}/clean"] = evaluation["clean"]["accuracy"]
        times: Counter = Counter()
        for attack in evaluation["attacks"]:
            name = attack["name"]
            times[name] += 1
            suffix = f"_{times[name]}" if times[name] > 1 else ""
            values[f"final/{checkpoint}/{name}{suffix}"] = attack["accuracy"]
    return values


def write_metrics(folder: Path, table: list[Row]) -> None:
    """Write both files, each completely or not at all; they hold each epoch once, however often the run was stopped.

    The record holds all of it too, so the files are not synced to the disk.
    """
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in table)
    write_bytes(folder / FILES[0], lines.encode(), synced=False)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_bytes(folder / FILES[1], text.getvalue().encode(), synced=False)
