"""What a run reached, and what that took."""

from typing import Any

from advcore.pixels import format_pixels
from advcore.reporting import charts
from advcore.reporting.charts import Bar
from advcore.reporting.parts import Figure, Figures, Note, Table
from advcore.reporting.record import RunRecord
from advcore.reporting.tables import accuracy, attack_label, percent, reference_told, together


def accuracies(record: RunRecord) -> list[Any]:
    if not record.final:
        return [Note("No final accuracy yet: the test set is looked at when the run ends.", "missing")]
    rows, drawn = [], []
    same = record.final.get("best") == record.final.get("last")
    states = {name: found for name, found in record.final.items() if not (same and name == "best")}
    for colour, (which, found) in enumerate(states.items(), 1):
        entries = [("clean", found["clean"], {})] + [(attack_label(one), one, one) for one in found["attacks"]]
        if worst := together(found):
            entries.append(("all attacks", worst, {}))
        for name, one, how in entries:
            rows.append((which, name, percent(one["accuracy"]), _interval(one), f"{one['n']:,}", *_how(how)))
            low, high = (100 * v for v in one["interval"])
            drawn.append((f"{which}, {name}", 100 * one["accuracy"], (low, high), colour))
    header = (
        "checkpoint",
        "attack",
        "accuracy, %",
        "95 % interval",
        "n",
        "step size",
        "restarts",
        "start",
        "seed",
        "split",
    )
    alt = "; ".join(f"{name} {value:.1f} %" for name, value, _, _ in drawn)
    picture = charts.intervals(drawn, x_title="accuracy, %", alt=f"Accuracies with 95 % intervals: {alt}.")
    table = Table("Accuracies on the test set, 95 % Wilson intervals", header, rows, words=2)
    return [
        Note(_of_best(record, same)),
        Figures([Figure("Dots are accuracies, bars their 95 % intervals.", picture)]),
        table,
        *_checks(record),
    ]


def _interval(one: dict) -> str:
    return accuracy(one).partition(" ")[2]


def _how(how: dict) -> tuple[str, ...]:
    """How a robust number was made; its steps stand in its name."""
    size = how.get("step_size")
    told = [format_pixels(size) if size is not None else None, how.get("restarts"), how.get("start"), how.get("seed")]
    return (*("–" if one is None else str(one) for one in told), how.get("split", "–"))


def _of_best(record: RunRecord, same: bool) -> str:
    if record.best_epoch is None:
        return "Without validation examples nothing picks a best epoch: best is last."
    told = f"Validation examples picked epoch {record.best_epoch + 1} as best"
    return f"{told}, which is the last." if same else f"{told}; the test set picks nothing."


def _checks(record: RunRecord) -> list[Note]:
    """Flags stand above; here: whether anything looked for them."""
    if record.config.get("evaluation", {}).get("checks") is False:
        return [Note("The checks of what makes robust numbers untrustworthy were switched off.", "flag")]
    if any(found.get("flags") for found in record.final.values()):
        return []
    if all("flags" in found for found in record.final.values()):
        return [Note("All reliability checks passed.")]
    return [Note("This record is older than the checks of robust numbers.", "missing")]


def costs(record: RunRecord) -> list[Any]:
    spent = {
        phase: one for phase, one in record.ledger.items() if one["forward"] + one["backward"] + one["seconds"] > 0
    }
    if not spent:
        return [Note("Nothing is counted yet.", "missing")]
    units = record.reference.get("units")
    figures = []
    if units:
        shares = {p: (one["forward"] + one["backward"]) / units for p, one in spent.items() if p != "evaluation"}
        rows = [Bar(p, v, f"{v:.3f}") for p, v in shares.items() if v > 0]
        rows.append(Bar("all", record.relative_cost, f"{record.relative_cost:.3f}", "f0"))
        alt = "Relative cost by phase: " + ", ".join(f"{row.name} {row.told}" for row in rows)
        caption = "Where the relative cost goes: passes, over all those of full training. Evaluation is not in it."
        figures.append(Figure(caption, charts.bars(rows, alt=alt, limit=(1.0, "full training"))))
    timed = {phase: one["seconds"] for phase, one in spent.items() if one["seconds"] >= 0.05}
    if timed:
        rows = [Bar(p, v, f"{v:,.1f} s", "data" if p == "evaluation" else "f1") for p, v in timed.items()]
        alt = "Seconds by phase: " + ", ".join(f"{row.name} {row.told}" for row in rows)
        device = record.environment.get("device", "a device that the record does not name")
        figures.append(Figure(f"Seconds by phase, on {device}.", charts.bars(rows, alt=alt)))
    rows = [(p, f"{one['forward']:,}", f"{one['backward']:,}", f"{one['seconds']:,.1f}") for p, one in spent.items()]
    return [
        *([] if units else [Note("The record does not say what costs are relative to.", "missing")]),
        Figures(figures),
        Table("Passes (one is one example) and seconds by phase", ("phase", "forward", "backward", "seconds"), rows),
        *_reference(record),
    ]


def _reference(record: RunRecord) -> list[Note]:
    reference, told = record.reference, []
    if "units" in reference:
        told.append(f"Full training, cost 1: {reference_told(reference)}, {reference['units']:,} passes.")
    told.append(f"The run took {record.seconds:,.0f} s in all")
    memory = f", and {record.peak_memory / 1e6:,.0f} MB of memory at its height" if record.peak_memory else ""
    return [Note(" ".join(told) + memory + ".")]
