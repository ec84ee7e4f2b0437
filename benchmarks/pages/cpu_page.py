"""The page benchmarks/cpu.md, a pure function of the record of benchmarks/measure/cpu.py."""

import statistics

from figures import BENCHMARKS, RECORDS

from advcore.errors import format_count
from advcore.files import read_json
from advcore.reporting.tables import to_markdown

RECORD, PAGE = RECORDS / "cpu.json", BENCHMARKS / "cpu.md"
DEFAULTS = RECORDS / "cpu_defaults"
LABELS = {
    "published": "PGD loop as published",
    "torchattacks": "standard loop, torchattacks' PGD",
    "foolbox": "standard loop, LinfPGD of foolbox",
    "first defaults": "advcore, channels first, unfused (the defaults up to 0.1)",
    "library": "advcore in your own program",
    "floor": "its passes alone",
    "command line": "`advcore run`",
    "floor, kept": "its passes alone",
    "published, kept": "PGD loop as published, freed memory kept",
    "published TRADES": "TRADES loop as published",
    "TRADES": "`advcore run`, TRADES",
}
COMPARED = {"TRADES": "published TRADES", "published TRADES": "published TRADES"}
"""The loop that a way is compared with; the published PGD loop if the way is not listed."""
FLOORS = {"library": "floor", "command line": "floor, kept"}


def ratio(case: dict, way: str, other: str) -> float:
    """How many times as fast `way` is as `other`: the median over rounds, in each of which both did a step."""
    pairs = zip(case["seconds"][other], case["seconds"][way], strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)


def table(case: dict) -> str:
    """A row for each way: seconds, how many times as fast as the published loop, and the share of the passes alone."""
    rows = []
    for way, seconds in case["seconds"].items():
        low, middle, high = statistics.quantiles(seconds, n=4)
        pages = statistics.median(case["pages"][way])
        share = f"{100 * ratio(case, way, FLOORS[way]):.0f} %" if way in FLOORS else ""
        rows.append(
            (
                LABELS[way],
                f"{middle:.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{ratio(case, way, COMPARED.get(way, 'published')):.2f}",
                share,
                f"{pages:,.0f}",
            )
        )
    compared = ("times as fast as published", "speed relative to its passes alone")
    return to_markdown(("step", "seconds", "middle half", *compared, "pages mapped"), rows)


def defaults_table(records: list[dict]) -> str:
    """A row for each case from which a family's defaults were decided (benchmarks/measure/cpu_defaults.py)."""
    rows = []
    for record in records:
        for case in record["cases"]:
            layout, fused = case["channels_last"], case["fused"]
            rows.append(
                (
                    record["environment"]["torch"],
                    case["family"],
                    f"{case['model']}, {' x '.join(map(str, case['shape']))}, batch {case['batch']}",
                    f"{layout['ratio']:.2f}",
                    f"{layout['ratio_one_step']:.2f}",
                    f"{fused['sgd']:.2f}",
                    f"{fused['adam']:.2f}",
                )
            )
    head = ("torch", "family", "case", "channels last, PGD-10", "channels last, PGD-1", "fused SGD", "fused Adam")
    return to_markdown(head, rows)


def text(record: dict, defaults: list[dict]) -> str:
    """The page of a record, with the records that the defaults were decided from."""
    where, machine = record["environment"], record["machine"]
    lines = ["# A training step on a CPU", ""]
    lines += [
        f"Made by `python benchmarks/measure/cpu.py`: {machine['processor']}, {machine['cores']} cores, "
        f"{format_count(where['threads'], 'thread')} (waiting threads: {machine['waiting'].lower()}), torch "
        f"{where['torch']}; load average {machine['load_before']:.1f} before and {machine['load_after']:.1f} after.",
        "",
        "A step is one batch of 32 x 32 images: PGD-10 with linf 8/255 and step size 2/255, then the update. Each row "
        "of a table runs in its own process, and the rows take turns, round by round.",
        "",
        "- *seconds*: per step, the median over rounds; *middle half*: the range of the middle half of the rounds.",
        "- *times as fast as published*: as the published loop of the same objective, the median over rounds.",
        "- *speed relative to its passes alone*: these are the same number of forward and backward passes on fixed "
        "images, in the layout that advcore chooses, in a process with the same handling of memory, and nothing else.",
        "- *pages mapped*: pages of 4 kB that the system mapped during a step because freed memory had been returned "
        "to it. `advcore run` keeps freed memory ([speed](../docs/speed.md)); your own program does so if you ask for "
        "it.",
        "",
    ]
    for name, case in record["cases"].items():
        lines += [f"## {name}, batch {case['batch']}, {case['rounds']} rounds", "", table(case), ""]
        if case["missing"]:
            lines += [f"Not installed here, so left out: {', '.join(case['missing'])}.", ""]
    lines += [
        "## The defaults by family",
        "",
        "How many times as fast a training step (10 attack steps, or 1, and the update) is with channels last as with "
        "channels first, and the optimiser's step if it is fused rather than unfused. Ratios are medians of processor "
        "time on one thread, with both ways in turn. A setting is a family's default if it is at least 1.03 times as "
        "fast in all of the family's cases (for channels last: with 10 attack steps). Made by "
        "`python benchmarks/measure/cpu_defaults.py`.",
        "",
        defaults_table(defaults),
        "",
    ]
    return "\n".join(lines)


def defaults_records() -> list[dict]:
    """Read the committed records of benchmarks/measure/cpu_defaults.py, the oldest release of torch first."""
    found = [read_json(path) for path in DEFAULTS.glob("*.json")]
    return sorted(found, key=lambda record: [int(part) for part in release(record).split(".")])


def release(record: dict) -> str:
    """Return "MAJOR.MINOR" of the torch that a record was made with."""
    return ".".join(record["environment"]["torch"].split(".")[:2])


def write() -> None:
    """Write the page from the committed records."""
    PAGE.write_text(text(read_json(RECORD), defaults_records()))
