"""Whether seconds follow operations: benchmarks/compute.md, from the record of benchmarks/measure/compute.py."""

from figures import BENCHMARKS, RECORDS

from advcore.errors import format_count
from advcore.files import read_json
from advcore.reporting.tables import to_markdown
from advcore.work import format_operations

RECORD = RECORDS / "compute.json"
PAGE = BENCHMARKS / "compute.md"
LIMIT = 0.2
"""By how much seconds per operation may differ between kinds of work."""


def list_works(network: dict) -> dict[str, dict[str, float]]:
    """Return {work: {seconds, flops}}: an attack step, an update, and a selection without its solver."""
    attack, rows = network["selection"]["attack"], network["selection"]["rows"]
    selection = {unit: attack[unit] + rows[unit] for unit in ("seconds", "flops")}
    examples = format_count(network["examples"], "image")
    return {**network["steps"], f"selection of {examples}: attack and gradient rows": selection}


def relate(network: dict) -> dict[str, float]:
    """Return for each kind of work its seconds per operation, relative to an attack step."""
    works = list_works(network)
    rates = {name: work["seconds"] / work["flops"] for name, work in works.items()}
    return {name: rate / rates["attack step"] for name, rate in rates.items()}


def list_rows(name: str, network: dict) -> list[tuple[str, ...]]:
    """Return the rows of a network's table."""
    relative = relate(network)
    title = f"{name}, batches of {network['batch']}, {network['rounds']} rounds"
    rows = []
    for work, cost in list_works(network).items():
        cells = (format_operations(cost["flops"]), f"{cost['seconds']:.4f}", f"{relative[work]:.2f}")
        rows.append((title, work, *cells))
    solve = network["selection"]["solve"]["seconds"]
    solver = "the solver in this selection (GradMatch, partition `per_class`, budget 30 %)"
    rows.append((title, solver, "0", f"{solve:.4f}", "–"))
    return rows


def page(record: dict) -> str:
    """The page of a record."""
    rows = [row for name, network in record["networks"].items() for row in list_rows(name, network)]
    where = record["environment"]
    threads = format_count(where["threads"], "thread")
    header = ("network", "work", "operations", "seconds", "seconds per operation, relative to the attack step")
    lines = [
        "# Do seconds follow operations?",
        "",
        "Relative costs count floating-point operations ([method](../docs/method.md#cost)). This page compares these",
        "counts with the seconds of one step of a linf attack, of one update, and of a selection after an "
        f"attack of {record['steps']} steps. A selection attacks its images, computes their [gradient",
        "rows](../docs/glossary.md#row) and runs the solver. The kinds of work take turns in each round; seconds are",
        f"medians over rounds. The device was {where['device']} with {threads} and torch {where['torch']}. advcore",
        "chose float types and memory layout, unless a row says otherwise.",
        "",
        to_markdown(header, rows),
        "",
        summarise(record),
    ]
    return "\n".join(lines) + "\n"


def summarise(record: dict) -> str:
    """Say which kinds of work differ from an attack step by more than `LIMIT` per operation."""
    far = [
        f"{work} of the {name} ({relative:.2f})"
        for name, network in record["networks"].items()
        for work, relative in relate(network).items()
        if abs(relative - 1) > LIMIT
    ]
    if not far:
        return f"In all cases, seconds per operation differ from those of the attack step by at most {LIMIT:.0%}."
    reason = (
        "A small network spends much time on work that is not counted: BatchNorm and activations move memory, and take "
        "as long in an attack as in an update."
    )
    return f"These differ from the attack step by more than {LIMIT:.0%}: {', '.join(far)}. {reason}"


def write() -> None:
    """Write the page from the committed record."""
    PAGE.write_text(page(read_json(RECORD)))
