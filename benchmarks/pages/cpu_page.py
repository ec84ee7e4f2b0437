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
    "floor": "passes of advcore in your own program alone",
    "command line": "`advcore run`",
    "floor, kept": "passes of `advcore run` alone",
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
    compared = ("times as fast as published", "speed relative to the passes alone")
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
        f"Measured with `python benchmarks/measure/cpu.py` on an {machine['processor']} with {machine['cores']} cores, "
        f"{format_count(where['threads'], 'thread')}, `OMP_WAIT_POLICY={machine['waiting']}` and torch "
        f"{where['torch']}. The load average was {machine['load_before']:.1f} before and {machine['load_after']:.1f} "
        "after.",
        "",
        "A step is one batch of 32 x 32 images: PGD-10 with linf 8/255 and step size 2/255, then the update. Each row "
        "of a table runs in its own process, and the rows take turns, round by round.",
        "",
        "- *seconds* are per step, the median over rounds. *Middle half* is the range of the middle half of rounds.",
        "- *times as fast as published* is the published loop's seconds divided by this row's seconds, for the same "
        "objective; the median over rounds.",
        "- *passes alone*: such a row does only the forward and backward passes of a step, and as many of them. The "
        "images are fixed, advcore chooses the layout, and the process handles memory in the same way.",
        "- *pages mapped* are pages of 4 kB that the system mapped during a step because freed memory had been "
        "returned to it. `advcore run` keeps freed memory ([speed](../docs/speed.md)); your own program can do so too.",
        "",
    ]
    for name, case in record["cases"].items():
        lines += [f"## {name}, batch {case['batch']}, {case['rounds']} rounds", "", table(case), ""]
        if case["missing"]:
            lines += [f"Not installed here, so left out: {', '.join(case['missing'])}.", ""]
    lines += [
        "## The defaults by family",
        "",
        "The columns *channels last* show how many times as fast a training step is with channels last as with "
        "channels first. A training step is 10 attack steps (PGD-10) or 1 (PGD-1), and the update. The columns *fused* "
        "show how many times as fast the optimizer's step is fused as unfused. Each ratio is a median over rounds. The "
        "two variants take turns, and their processor time is measured on one thread.",
        "",
        "A setting is a family's default if it is at least 1.03 times as fast in all of the family's cases. For "
        "channels last, only PGD-10 counts. `python benchmarks/measure/cpu_defaults.py` measures the ratios.",
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
