"""Speed on a GPU: benchmarks/gpu.md, from the record of benchmarks/measure/gpu.py."""

from figures import BENCHMARKS, RECORDS

from advcore.files import read_json
from advcore.reporting.tables import to_markdown

RECORD = RECORDS / "gpu.json"
PAGE = BENCHMARKS / "gpu.md"


def page(record: dict) -> str:
    """The page of a record."""
    where, found = record["environment"], record["found"]
    lines = [
        "# Speed on a GPU",
        "",
        f"Measured with `python benchmarks/measure/gpu.py` on {where['device']} with torch {where['torch']}.",
        "",
    ]
    lines += [f"Left out for lack of time: {', '.join(record['left_out'])}.", ""] if record["left_out"] else []
    plain = {one["model"]: one["per_second"] for one in found.get("train", []) if one["way"] == "published loop"}
    rows = [
        (
            one["model"],
            one["way"],
            f"{one['per_second']:,.0f}",
            f"{one['per_second'] / plain[one['model']]:.2f}",
            f"{100 * one['per_second'] / one['floor']:.0f} %" if "floor" in one else "",
        )
        for one in found.get("train", [])
    ]
    lines += [
        "## A PGD-10 training step",
        "",
        to_markdown(("model", "way", "images/s", "times as fast as published", "speed relative to the floor"), rows),
        "",
    ]
    rows = [
        (
            one["model"],
            one["way"],
            str(one["chunk"]),
            f"{one['per_second']:,.0f}",
            f"{100 * (one['rows'] + one['solve']) / one['attack']:.1f} %",
            f"{one['peak_memory'] / 1e9:.2f} GB",
        )
        for one in found.get("select", [])
    ]
    head = ("model", "way", "chunk", "images/s attacked", "time of rows + solve relative to the attack", "peak memory")
    lines += ["## A selection", "", to_markdown(head, rows), ""]
    rows = [
        (one["shape"], one["solver"], f"{one['seconds']:.1f}", f"{one['making']:.1f}", str(one["picked"]))
        for one in found.get("solve", [])
    ]
    head = ("shape", "solver", "seconds", "seconds for the rows", "examples picked")
    lines += ["## A solve", "", to_markdown(head, rows), ""]
    return "\n".join(lines)


def write() -> None:
    """Write the page from the committed record, if there is one of a CUDA device."""
    if RECORD.exists():
        PAGE.write_text(page(read_json(RECORD)))
