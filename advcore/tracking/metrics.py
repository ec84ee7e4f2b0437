"""A run's epochs as rows of numbers: metrics.jsonl and metrics.csv in its folder, and what trackers are told; pure."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

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
    "seconds": "seconds",
}
_SELECTION = ("k", "gradient_error", "gradient_error_random", "effective_sample_size", "weight_sum")
COLUMNS = (*_ENTRY.values(), "relative_cost", *(f"selection/{name}" for name in _SELECTION))


def rows(epochs: list[dict], selections: list[dict], reference: int) -> list[dict[str, Any]]:
    """One row an epoch of a record, each with all COLUMNS; None where there is no such number, as without a selection.

    reference : passes of the run that costs are relative to.
    """
    chosen = {one["epoch"]: one for one in selections}
    return [_row(entry, chosen.get(entry["epoch"], {}), reference) for entry in epochs]


def _row(entry: dict, selection: dict, reference: int) -> dict[str, Any]:
    units = entry.get("units")  # of a run that was begun by an older version, None
    cost = None if units is None else units / reference
    own = {name: entry.get(key) for key, name in _ENTRY.items()} | {"relative_cost": cost}
    return own | {f"selection/{name}": selection.get(name) for name in _SELECTION}


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """What a tracker is told of a row: its numbers."""
    kept = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "epoch"}
    return {name: float(value) for name, value in kept.items()}


def final_numbers(final: dict[str, Any], cost: float) -> dict[str, float]:
    """{"final/last/clean": 0.98, "final/last/linf_pgd": 0.9, "final/last/linf_pgd_2": 0.8, ...} of a record."""
    found = {"final/relative_cost": cost}
    for which, one in final.items():
        found[f"final/{which}/clean"] = one["clean"]["accuracy"]
        seen: Counter = Counter()
        for attack in one["attacks"]:
            seen[attack["name"]] += 1
            again = f"_{seen[attack['name']]}" if seen[attack["name"]] > 1 else ""
            found[f"final/{which}/{attack['name']}{again}"] = attack["accuracy"]
    return found


def write(folder: Path, found: list[dict[str, Any]]) -> None:
    """Both files, each whole or not at all: an epoch stands in them once, however often the run was stopped. The record
    holds all of it, so nobody waits for the disk."""
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in found)
    write_bytes(folder / FILES[0], lines.encode(), synced=False)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    write_bytes(folder / FILES[1], table.getvalue().encode(), synced=False)
