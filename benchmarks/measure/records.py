"""Where measurements keep their records; `make pages` makes the pages from them."""

from pathlib import Path

from advcore.files import write_json

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"
RECORDS = ROOT / "benchmarks" / "records"
TRIALS = ROOT / "runs"
"""Where the record of a quick trial goes, which is not to be committed."""


def save(name: str, record: dict, *, quick: bool = False) -> None:
    """Write a measurement's record, and print where."""
    path = (TRIALS if quick else RECORDS) / f"{name}.json"
    write_json(path, record)
    print(f"record: {path}; run make pages to update the page", flush=True)
