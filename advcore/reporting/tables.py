"""Records to rows, rows to markdown; pure."""

import statistics
from collections.abc import Iterable, Sequence

from advcore.reporting.record import RunRecord

Row = Sequence[str]


def markdown(header: Row, rows: Iterable[Row]) -> str:
    """A table; the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def percent(share: float) -> str:
    """0.912 as "91.2"; no sign."""
    return f"{100 * share:.1f}"


def attack_label(entry: dict) -> str:
    """ "linf 0.1, PGD-50 x 3" of an entry of `final`."""
    if entry["name"] == "autoattack":
        return f"{entry['norm']} {entry['eps']:.4g}, AutoAttack {entry['version']}"
    kind = entry["name"].removeprefix(f"{entry['norm']}_").upper()
    restarts = f" x {entry['restarts']}" if entry["restarts"] > 1 else ""
    return f"{entry['norm']} {entry['eps']:.4g}, {kind}-{entry['steps']}{restarts}"


def accuracy(entry: dict) -> str:
    """ "91.2 [88.0, 93.6]", in percent with the interval."""
    low, high = entry["interval"]
    return f"{percent(entry['accuracy'])} [{percent(low)}, {percent(high)}]"


def accuracies(which: str, found: dict) -> list[Row]:
    """Clean and robust accuracy of one state, with intervals."""
    rows = [(f"{which}: clean, % of {found['clean']['n']}", accuracy(found["clean"]))]
    rows += [(f"{which}: robust, % ({attack_label(attack)})", accuracy(attack)) for attack in found["attacks"]]
    if len(found["attacks"]) > 1 and "worst" in found:
        rows.append((f"{which}: robust, % (all of these)", accuracy(found["worst"])))
    return rows + [(f"{which}: flag", flag) for flag in found.get("flags", ())]


def closing(record: RunRecord) -> list[Row]:
    """What a run ends with: accuracies of last and best, cost, seconds by phase, gradient error against random."""
    rows = [row for which in ("last", "best") for row in accuracies(which, record.final[which])]
    rows.append(("relative cost", f"{record.relative_cost:.3f}"))
    spent = {phase: entry["seconds"] for phase, entry in record.ledger.items() if entry["seconds"] >= 0.05}
    rows.append(("seconds by phase", ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in spent.items())))
    for one in record.selections:
        if one["gradient_error"] is not None:
            compared = f"{one['gradient_error']:.3f} (random {one['gradient_error_random']:.3f})"
            if "gradient_error_full" in one:
                noise = f" ± {one['gradient_error_full_noise']:.3f}" if one["gradient_error_full_noise"] else ""
                compared += f"; against the full attack {one['gradient_error_full']:.3f}{noise}"
            rows.append((f"gradient error, selection at {one['epoch']}", compared))
    return rows


def _mean(values: list[float], form: str = "{:.1f}") -> str:
    """Mean and sample deviation."""
    spread = f" ± {form.format(statistics.stdev(values))}" if len(values) > 1 else ""
    return form.format(statistics.fmean(values)) + spread


def comparison(groups: dict[str, list[RunRecord]], which: str = "last") -> tuple[Row, list[Row]]:
    """One row a method: seeds, clean and robust accuracy (mean and deviation over seeds), relative cost, and the
    mean gradient error of its selections beside random's, and, where these were cheaper, against the full attack."""
    attacks = next(iter(groups.values()))[0].final[which]["attacks"]
    robust = [f"robust, % ({attack_label(attack)})" for attack in attacks]
    full = any("gradient_error_full" in s for records in groups.values() for one in records for s in one.selections)
    error = f"gradient error{' [against the full attack]' if full else ''} (random)"
    header = ("method", "seeds", "clean, %", *robust, "relative cost", error)
    return header, [_method(name, records, which, len(attacks)) for name, records in groups.items()]


def flagged(groups: dict[str, list[RunRecord]], which: str = "last") -> list[str]:
    """What makes a method's numbers untrustworthy, for a table's footer: "method: flag"."""
    found = {
        f"{name}: {flag}": None
        for name, records in groups.items()
        for record in records
        for flag in record.final[which].get("flags", ())
    }
    return list(found)


def _method(name: str, records: list[RunRecord], which: str, num_attacks: int) -> Row:
    finals = [record.final[which] for record in records]
    errors = [s for record in records for s in record.selections if s["gradient_error"] is not None]
    full = [s["gradient_error_full"] for s in errors if "gradient_error_full" in s]
    against = f" [{statistics.fmean(full):.3f}]" if full else ""
    compared = (
        f"{statistics.fmean(s['gradient_error'] for s in errors):.3f}{against} "
        f"({statistics.fmean(s['gradient_error_random'] for s in errors):.3f})"
        if errors
        else "–"
    )
    return (
        name,
        str(len(records)),
        _mean([100 * final["clean"]["accuracy"] for final in finals]),
        *(_mean([100 * final["attacks"][i]["accuracy"] for final in finals]) for i in range(num_attacks)),
        f"{statistics.fmean(record.relative_cost for record in records):.2f}",
        compared,
    )
