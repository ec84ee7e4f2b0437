"""The cost of remembering perturbations: benchmarks/memory.md, from the record of benchmarks/measure/memory.py."""

import statistics

from figures import BENCHMARKS, RECORDS

from advcore.errors import format_count
from advcore.files import read_json
from advcore.reporting.tables import to_markdown

RECORD = RECORDS / "memory.json"
PAGE = BENCHMARKS / "memory.md"


def page(record: dict) -> str:
    """The page of a record."""
    rows = []
    for name, found in record["ratios"].items():
        rows.append(
            (name, *(f"{100 * (value - 1):+.1f}" for value in (statistics.median(found), min(found), max(found))))
        )
    settings, environment = record["settings"], record["environment"]
    lines = [
        "# The cost of remembering perturbations",
        "",
        "The table shows how much longer an epoch takes with `attack.start: remembered` than without, in %. The two "
        f"variants take turns, {settings['turns']} times. Each time, the fastest of three epochs counts.",
        f"A small CNN was trained on {settings['images']} CIFAR-10 images (JPEG copies) with crops and flips. The "
        f"device was {environment['device']} with {format_count(environment['threads'], 'thread')}. *Precision* is the "
        "number type in which perturbations are stored.",
        "",
        to_markdown(("attack, precision", "median increase, %", "minimum, %", "maximum, %"), rows),
    ]
    return "\n".join([*lines, ""])


def write() -> None:
    """Write the page from the committed record."""
    PAGE.write_text(page(read_json(RECORD)))
