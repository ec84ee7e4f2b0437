"""The page of the CIFAR-10 runs at full size: accuracy against the wall clock."""

import math

from advcore.reporting.costs import choose_unit
from advcore.reporting.record import RunRecord
from advcore.reporting.tables import list_records, name_attack, to_markdown

PAGES = {"cifar10-gpu-trades": "TRADES", "cifar10-gpu-linf": "linf PGD adversarial training"}


def seconds(record: RunRecord) -> float:
    """Seconds of all epochs by the clock: training, selection, reading, augmentation, and the probe after each."""
    return sum(epoch["seconds"] for epoch in record.epochs)


def gap(one: dict, other: dict) -> str:
    """Points of accuracy between two entries of an evaluation, with a 95 % interval for independent samples."""
    p, q = one["accuracy"], other["accuracy"]
    half = 1.96 * math.sqrt(p * (1 - p) / one["n"] + q * (1 - q) / other["n"])
    return f"{100 * (p - q):+.1f} ± {100 * half:.1f}"


def random_of(method: str, found: dict[str, list[RunRecord]]) -> str | None:
    """Return the random subset of the same size as a coreset; None for other methods."""
    name, _, budget = method.rpartition(" ")
    control = f"random {budget}"
    return control if name in ("GradMatch", "CRAIG") and control in found else None


def section(found: dict[str, list[RunRecord]], which: str = "last") -> str:
    """A table; one seed per method."""
    full = found["full"][0]
    attacks = [name_attack(attack) for attack in full.final[which]["attacks"]]
    rows = []
    unit = choose_unit(list_records(found))
    for method, (record, *_) in found.items():
        entries, control = record.final[which]["attacks"], random_of(method, found)
        rows.append(
            (
                method,
                *(f"{100 * entry['accuracy']:.1f}" for entry in (record.final[which]["clean"], *entries)),
                "–" if method == "full" else gap(entries[0], full.final[which]["attacks"][0]),
                "–" if control is None else gap(entries[0], found[control][0].final[which]["attacks"][0]),
                f"{seconds(record):,.0f}",
                f"{seconds(full) / seconds(record):.2f}",
                f"{unit.compare(record):.2f}",
            )
        )
    accuracies = ("clean, %", *(f"{label}, %" for label in attacks))
    differences = ("difference from full", "difference from random")
    return to_markdown(("method", *accuracies, *differences, "seconds", "speed-up", unit.title), rows)


def text(groups: dict[str, dict[str, list[RunRecord]]]) -> str:
    """The page: `groups` are the suites' records by method."""
    lines = ["# CIFAR-10 (JPEG copies) at full size", ""]
    for suite, found in groups.items():
        any_one = next(iter(found.values()))[0]
        n = any_one.final["last"]["attacks"][0]["n"]
        lines += [
            f"## {PAGES[suite]}",
            "",
            f"ResNet-18, 40 epochs, one seed, checkpoint `last`, {n} test images, device "
            f"{any_one.environment['device']}. Seconds are those of the epochs, with selections and probes. "
            "Differences are in accuracy under the first attack, in points.",
            "",
            section(found),
            "",
        ]
    return "\n".join(lines)
