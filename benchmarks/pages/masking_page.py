"""Two models, evaluated in four ways: benchmarks/masking.md, from the record of benchmarks/measure/masking.py."""

from figures import BENCHMARKS, RECORDS, reword_flag

from advcore.files import read_json
from advcore.reporting.tables import format_accuracy, to_markdown

RECORD = RECORDS / "masking.json"
PAGE = BENCHMARKS / "masking.md"


def page(record: dict) -> str:
    """The table, from the record alone."""
    columns = ("ours", "foolbox", "AutoAttack")
    rows = [
        (name, format_accuracy(one["clean"]), *(format_accuracy(one["attacks"][column]) for column in columns))
        for name, one in record["models"].items()
    ]
    told = record["settings"]
    how = f"PGD-{told['steps']} x {told['restarts']}, step {told['step_size']}"
    attacks = (f"advcore, {how}", f"foolbox, {how}", "AutoAttack")
    header = ("model", "clean, %", *(f"robust, % ({attack})" for attack in attacks))
    flags = [
        f"- {name}: {'; '.join(map(reword_flag, one['flags'])) or 'no flag'}" for name, one in record["models"].items()
    ]
    n = next(iter(record["models"].values()))["clean"]["n"]
    return "\n".join(
        [
            "# Two models, evaluated in four ways",
            "",
            f"`python benchmarks/measure/masking.py` trains a small CNN on MNIST twice, for linf {told['eps']}, and "
            f"evaluates each model on {n} test images. The device was {record['environment']['device']}. Brackets are "
            f"95 % intervals. PGD-{told['steps']} x {told['restarts']} has {told['restarts']} random starts per image.",
            "",
            to_markdown(header, rows),
            "",
            "Flags of advcore's checks ([what they mean](../docs/evaluation.md)):",
            "",
            *flags,
            "",
        ]
    )


def write() -> None:
    """Write the page from the committed record."""
    PAGE.write_text(page(read_json(RECORD)))
