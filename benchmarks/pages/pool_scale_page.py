"""A selection from a pool of a million: benchmarks/pool_scale.md, from the record of measure/pool_scale.py."""

from collections.abc import Mapping

from figures import BENCHMARKS, RECORDS

from advcore.errors import format_count
from advcore.files import read_json
from advcore.reporting.tables import to_markdown

RECORD = RECORDS / "pool_scale.json"
PAGE = BENCHMARKS / "pool_scale.md"


def page(record: dict) -> str:
    """The page of a record."""
    cases = record["cases"]
    exact = {case["solver"]: case["gradient_error"] for case in cases if case["block_size"] is None}
    n = max(case["n"] for case in cases)
    few = min(case["n"] for case in cases)
    at_scale = [
        _list_cells(case, f"{case['seconds'] / 60:.1f}", _format_peak(case)) for case in cases if case["n"] == n
    ]
    on_few = [_list_cells(case, f"{case['seconds']:.1f}", _relate(case, exact)) for case in cases if case["n"] == few]
    shared = ("gradient error", "gradient error of a random subset")
    threads = format_count(record["environment"]["threads"], "thread")
    lines = [
        "# A selection from a pool of a million",
        "",
        f"Solvers select from {n:,} generated [gradient rows](../docs/glossary.md#row). The rows are float32 and have",
        "the shape of CIFAR-10 and ResNet-18: 10 classes, 512 features, 50 clusters per class. 10 % of each class are",
        f"picked once, in random blocks (`solver.block_size`). One process with {threads} does this, on a machine that",
        "also had other work. The time includes reading the rows from a file. The peak is the memory of the whole",
        "process, torch included.",
        "",
        to_markdown(("solver", "block_size", "minutes", "peak memory, GB", *shared), at_scale),
        "",
        *_explain_bias(cases),
        f"The next table compares the solvers with and without blocks, on the first {few:,} rows (about",
        f"{few // 10:,} per class):",
        "",
        to_markdown(("solver", "block_size", "seconds", "gradient error relative to no blocks", *shared), on_few),
        "",
        *_explain_blocks(cases, exact, few),
    ]
    return "\n".join([*lines, ""])


def _explain_blocks(cases: list[dict], exact: Mapping[str, float], few: int) -> list[str]:
    """Say how far the errors of blocks are from those without blocks, where they cut a class and where they do not."""
    whole, cut = [], []
    for case in cases:
        if case["n"] == few and case["block_size"] is not None:
            kind = whole if case["block_size"] >= few / 10 else cut
            kind.append(case["gradient_error"] / exact[case["solver"]])
    return [
        f"Blocks of about one class have an error of at most {max(whole):.3f} times that without blocks.",
        f"Smaller blocks cut a class into parts, and have up to {max(cut):.3f} times that error. With a million",
        "rows, every class is cut, and the error without blocks is not known.",
    ]


def _explain_bias(cases: list[dict]) -> list[str]:
    """Explain why the sum of medoids has a larger error than that of random rows, if there is such a case."""
    if all(case["gradient_error"] < case["gradient_error_random"] for case in cases):
        return []
    return [
        "CRAIG minimizes the distance of rows from their medoids. The sum of medoids is biased; the sum of a random",
        "subset is not biased. The error of a random subset falls with the square root of its size. From some size on,",
        "a random subset therefore has the smaller error.",
        "",
    ]


def _format_peak(case: dict) -> str:
    return f"{case['peak'] / 1e9:.1f}"


def _list_cells(case: dict, first: str, second: str) -> tuple[str, ...]:
    size = "none" if case["block_size"] is None else f"{case['block_size']:,}"
    errors = (f"{case['gradient_error']:.4f}", f"{case['gradient_error_random']:.4f}")
    return (case["solver"], size, first, second, *errors)


def _relate(case: dict, exact: dict[str, float]) -> str:
    return f"{case['gradient_error'] / exact[case['solver']]:.3f}"


def write() -> None:
    """Write the page from the committed record."""
    PAGE.write_text(page(read_json(RECORD)))
