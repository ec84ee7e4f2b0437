"""How threads wait: benchmarks/threads.md and a sentence of docs/speed.md.

Made from the record of benchmarks/measure/threads.py.
"""

import statistics

from figures import BENCHMARKS, DOCS, RECORDS, between

from advcore.errors import format_count
from advcore.files import read_json
from advcore.reporting.tables import to_markdown
from advcore.runtime.threads import SPINS

RECORD = RECORDS / "threads.json"
PAGE = BENCHMARKS / "threads.md"
SPEED = DOCS / "speed.md"


def ratio(record: dict, first: tuple[str, str], second: tuple[str, str]) -> float:
    """Return the ratio of two medians, each of a (variant, condition)."""
    values = [statistics.median(record["seconds"][variant][condition]) for variant, condition in (first, second)]
    return values[0] / values[1]


def format_seconds(values: list[float], limit: float) -> str:
    """Show the median and the range; a run that was terminated counts as more than the limit."""
    shown = [f"over {limit:.0f}" if value >= limit else f"{value:.0f}" for value in sorted(values)]
    median = statistics.median(values)
    middle = f"over {limit:.0f}" if median >= limit else f"{median:.0f}"
    return middle if len(values) == 1 else f"{middle} ({shown[0]} to {shown[-1]})"


def page(record: dict) -> str:
    """The page of a record."""
    where, limit = record["environment"], record["limit"]
    rows = []
    for name, conditions in record["seconds"].items():
        cells = [format_seconds(conditions[condition], limit) for condition in ("alone", "busy")]
        rows.append((name, *cells, str(len(conditions["alone"])), str(len(conditions["busy"]))))
    header = ("variant", "seconds alone", "seconds next to busy processes", "runs alone", "runs next to busy processes")
    lines = [
        "# How threads wait",
        "",
        f"The table shows the seconds of {record['epochs']} epochs of experiments/trades_gradmatch.yaml with `advcore "
        "run`, including imports and the final evaluation. The run is alone on the machine, or next to "
        f"{record['busy']} busy processes.",
        f"The device was {where['device']} with {format_count(where['threads'], 'thread')} and torch {where['torch']}. "
        "Seconds are medians, with the range in parentheses; the variants take turns. *Spinning* is GNU OpenMP's "
        f"default: a waiting thread keeps checking for work. With advcore, a thread checks {SPINS:,} times before it "
        "sleeps.",
        "",
        to_markdown(header, rows),
    ]
    return "\n".join(lines) + "\n"


def sentence(record: dict) -> str:
    """What docs/speed.md says of the record."""
    spinning = format_seconds(record["seconds"]["all cores, spinning"]["busy"], record["limit"])
    busy, alone = ("advcore", "busy"), ("advcore", "alone")
    spinning_busy = ratio(record, ("all cores, spinning", "busy"), busy)
    return (
        f"Next to {record['busy']} busy processes on {record['environment']['threads']} cores, {record['epochs']} "
        f"epochs of `experiments/trades_gradmatch.yaml` take {ratio(record, busy, alone):.1f} times as long as alone. "
        f"With spinning threads they took {spinning} seconds, {spinning_busy:.1f} times as long as with advcore's "
        f"default. Alone, that takes {ratio(record, alone, ('all cores, spinning', 'alone')):.2f} times as long "
        f"as spinning threads, and {ratio(record, alone, ('one thread', 'alone')):.2f} times as long as one thread "
        "([measured](../benchmarks/threads.md))."
    )


def write() -> None:
    """Write the page and the sentence from the committed record."""
    record = read_json(RECORD)
    PAGE.write_text(page(record))
    SPEED.write_text(between(SPEED.read_text(), "threads", sentence(record)))
