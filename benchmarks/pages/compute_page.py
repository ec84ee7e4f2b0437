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
    """Return {work: {seconds, flops}}: an attack step, an update, and a selection without its solve."""
    attack, rows = network["selection"]["attack"], network["selection"]["rows"]
    selection = {unit: attack[unit] + rows[unit] for unit in ("seconds", "flops")}
    examples = format_count(network["examples"], "image")
    return {**network["steps"], f"selection of {examples}: attack and rows": selection}


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
    rows.append((title, "the selection's solve (GradMatch, per class, 30 %)", "0", f"{solve:.4f}", "–"))
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
        "counts with measured seconds: of one step of a linf attack, one update, and a selection after an "
        f"attack of {record['steps']} steps.",
        "The kinds of work take turns in each round; seconds are medians over rounds. "
        f"Device {where['device']}, {threads}, torch "
        f"{where['torch']}, float types and memory layout as advcore chooses them, unless a row says otherwise.",
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
        return f"Seconds per operation are within {LIMIT:.0%} of the attack step in all cases."
    reason = (
        "A small network spends much time on work that is not counted: BatchNorm and activations move memory, and take "
        "as long in an attack as in an update."
    )
    return f"These differ from the attack step by more than {LIMIT:.0%}: {', '.join(far)}. {reason}"


def write() -> None:
    """Write the page from the committed record."""
    PAGE.write_text(page(read_json(RECORD)))
