"""Records to rows, rows to markdown; pure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from advcore.errors import counted
from advcore.pixels import format_pixels
from advcore.reporting.record import BY_PATH, RunRecord

Row = Sequence[str]
Groups = Mapping[str, Sequence[RunRecord]]
_CLASSES = 24  # whose counts stand in a cell
NOTHING = "–"
"""In a cell where there is nothing to tell."""


def markdown(header: Row, rows: Iterable[Row]) -> str:
    """A table; the first column to the left, the others to the right. A short row is filled up."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = []
    for row in (header, rule, *rows):
        cells = [cell.replace("|", "\\|") for cell in row] + [""] * (len(header) - len(row))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def percent(share: float) -> str:
    """0.912 as "91.2"; no sign."""
    return f"{100 * share:.1f}"


def attack_label(entry: dict) -> str:
    """ "linf 0.1, PGD-50 x 3" of an entry of `final`."""
    if entry["name"] == "autoattack":
        return f"{entry['norm']} {format_pixels(entry['eps'])}, AutoAttack {entry['version']}"
    kind = entry["name"].removeprefix(f"{entry['norm']}_").upper()
    restarts = f" x {entry['restarts']}" if entry["restarts"] > 1 else ""
    return f"{entry['norm']} {format_pixels(entry['eps'])}, {kind}-{entry['steps']}{restarts}"


def accuracy(entry: dict) -> str:
    """ "91.2 [88.0, 93.6]", in percent with the interval."""
    low, high = entry["interval"]
    return f"{percent(entry['accuracy'])} [{percent(low)}, {percent(high)}]"


def data_name(record: RunRecord) -> str:
    """ "digits"; of files, with the last part of their path."""
    data = record.config.get("data", {})
    name, path = str(data.get("name", "?")), str(data.get("path") or "").rstrip("/").rpartition("/")[2]
    return f"{name} {path}" if path and name in BY_PATH else name


def reference_told(reference: dict) -> str:
    """ "30 epochs, 10 attack steps"."""
    steps = reference["steps"]
    attack = "no attack" if steps is None else counted(steps, "attack step")
    return f"{counted(reference['epochs'], 'epoch')}, {attack}"


def together(found: dict) -> dict | None:
    """The entry of all attacks of an evaluation together, where there are several."""
    return found.get("worst") if len(found["attacks"]) > 1 else None


def accuracies(which: str, found: dict) -> list[Row]:
    """Clean and robust accuracy of one state, with intervals."""
    rows = [(f"{which}: clean, % of {found['clean']['n']}", accuracy(found["clean"]))]
    rows += [(f"{which}: robust, % ({attack_label(attack)})", accuracy(attack)) for attack in found["attacks"]]
    if worst := together(found):
        rows.append((f"{which}: robust, % (all of these)", accuracy(worst)))
    return rows + [(f"{which}: flag", flag) for flag in found.get("flags", ())]


def closing(record: RunRecord) -> list[Row]:
    """What a run ends with: accuracies of last and best, cost, seconds by phase, gradient error against random."""
    rows = [row for which in ("last", "best") for row in accuracies(which, record.final[which])]
    rows.append(("relative cost", f"{record.relative_cost:.3f}"))
    spent = {phase: entry["seconds"] for phase, entry in record.ledger.items() if entry["seconds"] >= 0.05}
    rows.append(("seconds by phase", ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in spent.items())))
    for one in record.selections:
        if compared := _compared_error(one):
            rows.append((f"gradient error, selection at {one['epoch']}", compared))
    return rows


def selection_rows(summary: dict) -> list[Row]:
    """Tell of one coreset, as the record has it, in the words of the other tables."""
    spent = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in summary["seconds"].items())
    rows = [
        ("solver", f"{summary['solver']}, {summary['partition']}"),
        ("examples per class", _class_counts(summary["class_counts"])),
        ("gradient error", _compared_error(summary)),
        ("gradient error as trained", _decimal(summary["gradient_error_trained"])),
        ("error against the target", _decimal(summary.get("target_error"))),
        ("weights, sum over examples", _decimal(summary["weight_sum"])),
        ("effective sample size, share", _decimal(summary["effective_sample_size"])),
        ("filled at random", str(summary["filled"])),
        ("rounds", str(summary["rounds"])),
        ("seconds", spent),
        ("passes", f"{summary['passes']:,}"),
    ]
    return [(name, cell) for name, cell in rows if cell]


def _class_counts(counts: Sequence[int]) -> str:
    if len(counts) <= _CLASSES:
        return ", ".join(map(str, counts))
    return f"{min(counts)} to {max(counts)}, in {len(counts)} classes"


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _compared_error(selection: dict) -> str:
    """ "0.020 (random 0.500); against the full attack 0.031 ± 0.002"; "" where no gradient was measured."""
    if selection["gradient_error"] is None:
        return ""
    compared = f"{selection['gradient_error']:.3f} (random {selection['gradient_error_random']:.3f})"
    if selection.get("gradient_error_full") is not None:
        noise = f" ± {selection['gradient_error_full_noise']:.3f}" if selection["gradient_error_full_noise"] else ""
        compared += f"; against the full attack {selection['gradient_error_full']:.3f}{noise}"
    return compared


def mean_and_deviation(values: list[float]) -> str:
    """Mean and sample deviation, a digit after the point; a dash where there is nothing."""
    if not values:
        return NOTHING
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def comparison(
    groups: Groups, which: str = "last", *, against: Sequence[RunRecord] = (), clock: bool = False
) -> tuple[Row, list[Row]]:
    """One row a method: seeds, clean and robust accuracy (mean and deviation over seeds), relative cost, and the
    mean gradient error of its selections beside random's, and, where these were cheaper, against the full attack.

    against : records whose cost the others' is set beside, in a column of speed-ups; clock : and whose seconds are.
    """
    labels = dict.fromkeys(label for records in groups.values() for label in _robust(records[0], which))
    full = any("gradient_error_full" in s for records in groups.values() for one in records for s in one.selections)
    error = f"gradient error{' [against the full attack]' if full else ''} (random)"
    faster = ["speed-up (cost)", "speed-up (seconds)"][: 1 + clock] if against else []
    header = (
        "method",
        "seeds",
        "clean, %",
        *(f"robust, % ({label})" for label in labels),
        "relative cost",
        *faster,
        error,
    )
    return header, [_method(name, records, which, labels, against, clock) for name, records in groups.items()]


def _robust(record: RunRecord, which: str) -> dict[str, float]:
    """Robust accuracies of one state, in percent, by the attack's label; of several, all of them together too."""
    found: dict[str, float] = {}
    for attack in record.final[which]["attacks"]:
        label = attack_label(attack)
        twins = sum(known == label or known.startswith(f"{label} (") for known in found)
        found[f"{label} ({twins + 1})" if twins else label] = 100 * attack["accuracy"]
    if worst := together(record.final[which]):
        found["all of these"] = 100 * worst["accuracy"]
    return found


def trained_seconds(record: RunRecord) -> float:
    """Seconds of training and selection: of all phases but evaluation."""
    return sum(entry["seconds"] for phase, entry in record.ledger.items() if phase != "evaluation")


def flagged(groups: Groups, which: str = "last") -> list[str]:
    """What makes a method's numbers untrustworthy, for a table's footer: "method: flag"."""
    found = {
        f"{name}: {flag}": None
        for name, records in groups.items()
        for record in records
        for flag in record.final[which].get("flags", ())
    }
    return list(found)


def _method(
    name: str,
    records: Sequence[RunRecord],
    which: str,
    labels: Iterable[str],
    against: Sequence[RunRecord],
    clock: bool,
) -> Row:
    robust = [_robust(record, which) for record in records]
    cost = statistics.fmean(record.relative_cost for record in records)
    return (
        name,
        str(len(records)),
        mean_and_deviation([100 * record.final[which]["clean"]["accuracy"] for record in records]),
        *(mean_and_deviation([found[label] for found in robust if label in found]) for label in labels),
        f"{cost:.2f}",
        *_speed_ups(records, against, clock),
        _errors(records),
    )


def _speed_ups(records: Sequence[RunRecord], against: Sequence[RunRecord], clock: bool) -> list[str]:
    """How many times less the records took than those they are set beside: of passes, and of seconds."""
    measures = [_passes, trained_seconds][: 1 + clock] if against else []
    means = [[statistics.fmean(map(measure, group)) for group in (against, records)] for measure in measures]
    return [f"{theirs / own:.2f}" if own else NOTHING for theirs, own in means]


def _passes(record: RunRecord) -> float:
    """Of all phases but evaluation. Relative costs of other objectives, or of more data, are relative to others."""
    return record.relative_cost * record.reference.get("units", 1)


def _errors(records: Sequence[RunRecord]) -> str:
    errors = [s for record in records for s in record.selections if s["gradient_error"] is not None]
    full = [s["gradient_error_full"] for s in errors if "gradient_error_full" in s]
    against = f" [{statistics.fmean(full):.3f}]" if full else ""
    if not errors:
        return NOTHING
    own, chance = (statistics.fmean(s[name] for s in errors) for name in ("gradient_error", "gradient_error_random"))
    return f"{own:.3f}{against} ({chance:.3f})"
