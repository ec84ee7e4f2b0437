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
        "How much longer an epoch takes with `attack.start: remembered` than without, in %. The two take turns, "
        f"{settings['turns']} times; each time, the fastest of three epochs counts.",
        f"{settings['images']} CIFAR-10 images (JPEG copies), crop and flip, small CNN, "
        f"device {environment['device']}, {format_count(environment['threads'], 'thread')}.",
        "",
        to_markdown(("attack, precision", "median, %", "minimum, %", "maximum, %"), rows),
    ]
    return "\n".join([*lines, ""])


def write() -> None:
    """Write the page from the committed record."""
    PAGE.write_text(page(read_json(RECORD)))
