"""Rows of tables from records, and Markdown from rows; pure functions."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from advcore.errors import format_count
from advcore.pixels import format_pixels
from advcore.reporting.record import BY_PATH, JsonObject, RunRecord

Row = Sequence[str]
# Records by the name of their method.
Groups = Mapping[str, Sequence[RunRecord]]
# A cell lists the counts of at most this many classes.
_CLASSES = 24
# The text of a cell for which the record holds nothing.
NOTHING = "–"


def to_markdown(header: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table: the first column aligned left, the others right. Short rows get empty cells."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = []
    for row in (header, rule, *rows):
        cells = [cell.replace("|", "\\|") for cell in row] + [""] * (len(header) - len(row))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def format_percent(share: float) -> str:
    """Write a share as a percentage without a sign: 0.912 as "91.2"."""
    return f"{100 * share:.1f}"


def name_attack(entry: JsonObject) -> str:
    """Return the name of an attack in tables, from its entry in the record: "linf 0.1, PGD-50 x 3"."""
    if entry["name"] == "autoattack":
        return f"{entry['norm']} {format_pixels(entry['eps'])}, AutoAttack {entry['version']}"
    kind = entry["name"].removeprefix(f"{entry['norm']}_").upper()
    restarts = f" x {entry['restarts']}" if entry["restarts"] > 1 else ""
    return f"{entry['norm']} {format_pixels(entry['eps'])}, {kind}-{entry['steps']}{restarts}"


def format_accuracy(entry: JsonObject) -> str:
    """Write an accuracy with its interval, in percent: "91.2 [88.0, 93.6]"."""
    low, high = entry["interval"]
    return f"{format_percent(entry['accuracy'])} [{format_percent(low)}, {format_percent(high)}]"


def format_interval(entry: JsonObject) -> str:
    """Write the interval of an accuracy, in percent: "88.0 to 93.6"."""
    return " to ".join(map(format_percent, entry["interval"]))


def name_data(record: RunRecord) -> str:
    """Return the name of a run's data, such as "digits"; for data that is read from files, with the last part of
    their path."""
    data = record.config.get("data", {})
    name = str(data.get("name", "?"))
    path = str(data.get("path") or "").rstrip("/").rpartition("/")[2]
    if path and name in BY_PATH:
        return f"{name} {path}"
    return name


def describe_reference(reference: JsonObject) -> str:
    """Describe full training: "30 epochs, 10 attack steps"."""
    steps = reference["steps"]
    attack = "no attack" if steps is None else format_count(steps, "attack step")
    return f"{format_count(reference['epochs'], 'epoch')}, {attack}"


def format_cell(value: object, form: str = "{}") -> str:
    """Write a value in a form; a dash where there is none."""
    return NOTHING if value is None else form.format(value)


def find_worst_case(evaluation: JsonObject) -> JsonObject | None:
    """Return the entry of an evaluation for all its attacks together; None where it has fewer than two."""
    return evaluation.get("worst") if len(evaluation["attacks"]) > 1 else None


# ---- one run ----


def accuracy_rows(which: str, evaluation: JsonObject) -> list[Row]:
    """Return rows with the clean and the robust accuracies of a checkpoint, with intervals, and its flags."""
    clean = evaluation["clean"]
    rows = [(f"{which}: clean, % of {clean['n']}", format_accuracy(clean))]
    for attack in evaluation["attacks"]:
        rows.append((f"{which}: robust, % ({name_attack(attack)})", format_accuracy(attack)))
    if worst := find_worst_case(evaluation):
        rows.append((f"{which}: robust, % (all of these)", format_accuracy(worst)))
    return rows + [(f"{which}: flag", flag) for flag in evaluation.get("flags", ())]


def closing_rows(record: RunRecord) -> list[Row]:
    """Return the table that ends a run.

    It holds the accuracies of both checkpoints, the cost, the seconds of each phase, and the gradient error of each
    selection beside that of random subsets.
    """
    rows = [*accuracy_rows("last", record.final["last"]), *accuracy_rows("best", record.final["best"])]
    rows.append(("relative cost", f"{record.relative_cost:.3f}"))
    spent = {phase: entry["seconds"] for phase, entry in record.ledger.items() if entry["seconds"] >= 0.05}
    rows.append(("seconds by phase", ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in spent.items())))
    for selection in record.selections:
        if error := _format_gradient_error(selection):
            rows.append((f"gradient error, selection at {selection['epoch']}", error))
    return rows


def list_selection_rows(summary: JsonObject) -> list[Row]:
    """Return rows about a coreset, from its entry in the record. What was not measured has no row."""
    spent = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in summary["seconds"].items())
    rows = [
        ("solver", f"{summary['solver']}, {summary['partition']}"),
        ("examples per class", _format_class_counts(summary["class_counts"])),
        ("gradient error", _format_gradient_error(summary)),
        ("gradient error as trained", _format_decimal(summary["gradient_error_trained"])),
        ("error against the target", _format_decimal(summary.get("target_error"))),
        ("weights, sum over examples", _format_decimal(summary["weight_sum"])),
        ("effective sample size, share", _format_decimal(summary["effective_sample_size"])),
        ("filled at random", str(summary["filled"])),
        ("rounds", str(summary["rounds"])),
        ("seconds", spent),
        ("passes", f"{summary['passes']:,}"),
    ]
    return [(name, cell) for name, cell in rows if cell]


def _format_class_counts(counts: Sequence[int]) -> str:
    if len(counts) <= _CLASSES:
        return ", ".join(map(str, counts))
    return f"{min(counts)} to {max(counts)}, in {len(counts)} classes"


def _format_decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _format_gradient_error(selection: JsonObject) -> str:
    """Write the gradient error of a selection beside that of random subsets; "" where no gradient was measured.

    "0.020 (random 0.500); against the full attack 0.031 ± 0.002", the latter where selection used a cheaper attack.
    """
    if selection["gradient_error"] is None:
        return ""
    text = f"{selection['gradient_error']:.3f} (random {selection['gradient_error_random']:.3f})"
    if selection.get("gradient_error_full") is not None:
        text += f"; against the full attack {selection['gradient_error_full']:.3f}"
        noise = selection["gradient_error_full_noise"]
        if noise:
            text += f" ± {noise:.3f}"
    return text


# ---- several runs ----


def format_mean(values: Sequence[float]) -> str:
    """Write mean and sample deviation with one decimal; the mean alone of a single value, a dash of none."""
    if not values:
        return NOTHING
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def compare_methods(
    groups: Groups, which: str = "last", *, against: Sequence[RunRecord] = (), clock: bool = False
) -> tuple[Row, list[Row]]:
    """Return the header and the rows of a table that compares methods, one row per method.

    Each row holds the number of seeds, clean and robust accuracy (mean and deviation over seeds), relative cost, and
    the mean gradient error of the selections beside that of random subsets; where selections used a cheaper attack,
    also the error against the full attack.

    which : the checkpoint whose accuracies are compared, "last" or "best".
    against : the records of the method that speed-ups are relative to; without any there is no such column.
    clock : also compare seconds, which takes records from one machine.
    """
    labels = list(dict.fromkeys(chain.from_iterable(_read_robust(records[0], which) for records in groups.values())))
    selections = _list_selections(chain.from_iterable(groups.values()))
    full = " [against the full attack]" if any("gradient_error_full" in entry for entry in selections) else ""
    measures = {}
    if against:
        measures["speed-up (cost)"] = _count_passes
    if against and clock:
        measures["speed-up (seconds)"] = sum_training_seconds
    header = (
        "method",
        "seeds",
        "clean, %",
        *(f"robust, % ({label})" for label in labels),
        "relative cost",
        *measures,
        f"gradient error{full} (random)",
    )
    rows: list[Row] = []
    for name, records in groups.items():
        cost = statistics.fmean(record.relative_cost for record in records)
        speed_ups = [_format_speed_up(records, against, measure) for measure in measures.values()]
        cells = _format_accuracies(records, which, labels)
        rows.append((name, str(len(records)), *cells, f"{cost:.2f}", *speed_ups, _format_mean_errors(records)))
    return header, rows


def _list_selections(records: Iterable[RunRecord]) -> list[JsonObject]:
    return list(chain.from_iterable(record.selections for record in records))


def _read_robust(record: RunRecord, which: str) -> dict[str, float]:
    """Return the robust accuracies of a checkpoint, in percent, by the label of the attack.

    An attack that has the label of an earlier one gets a number, "(2)". With several attacks, the accuracy under all
    of them together is added.
    """
    evaluation = record.final[which]
    accuracies: dict[str, float] = {}
    for attack in evaluation["attacks"]:
        label = name_attack(attack)
        earlier = sum(name == label or name.startswith(f"{label} (") for name in accuracies)
        if earlier:
            label = f"{label} ({earlier + 1})"
        accuracies[label] = 100 * attack["accuracy"]
    if worst := find_worst_case(evaluation):
        accuracies["all of these"] = 100 * worst["accuracy"]
    return accuracies


def _format_accuracies(records: Sequence[RunRecord], which: str, labels: Iterable[str]) -> list[str]:
    """Return the cells of clean and robust accuracy; a label that no record has gets a dash."""
    robust = [_read_robust(record, which) for record in records]
    clean = [100 * record.final[which]["clean"]["accuracy"] for record in records]
    cells = [format_mean(clean)]
    for label in labels:
        cells.append(format_mean([accuracies[label] for accuracies in robust if label in accuracies]))
    return cells


def _format_speed_up(
    records: Sequence[RunRecord], against: Sequence[RunRecord], measure: Callable[[RunRecord], float]
) -> str:
    """Write how many times less the records took than those of the reference, by the means of a measure."""
    reference = statistics.fmean(map(measure, against))
    mean = statistics.fmean(map(measure, records))
    return f"{reference / mean:.2f}" if mean else NOTHING


def _count_passes(record: RunRecord) -> float:
    """Return the passes of all phases but evaluation.

    Relative costs alone cannot be compared where methods have different references: other objectives, or more data.
    """
    return record.relative_cost * record.reference.get("units", 1)


def sum_training_seconds(record: RunRecord) -> float:
    """Return the seconds of training and selection: of all phases but evaluation."""
    return sum(entry["seconds"] for phase, entry in record.ledger.items() if phase != "evaluation")


def _format_mean_errors(records: Sequence[RunRecord]) -> str:
    """Write the mean gradient error of all selections beside that of random subsets: "0.020 [0.031] (0.500)"."""
    selections = [entry for entry in _list_selections(records) if entry["gradient_error"] is not None]
    if not selections:
        return NOTHING
    full = [entry["gradient_error_full"] for entry in selections if "gradient_error_full" in entry]
    against_full = f" [{statistics.fmean(full):.3f}]" if full else ""
    error = statistics.fmean(entry["gradient_error"] for entry in selections)
    chance = statistics.fmean(entry["gradient_error_random"] for entry in selections)
    return f"{error:.3f}{against_full} ({chance:.3f})"


def list_run_flags(record: RunRecord) -> list[str]:
    """Return why the numbers of a run cannot be trusted: the flags of its evaluations, each once."""
    flags = chain.from_iterable(evaluation.get("flags", ()) for evaluation in record.final.values())
    return list(dict.fromkeys(map(str, flags)))


def list_flags(groups: Groups, which: str = "last") -> list[str]:
    """Return why the numbers of some methods cannot be trusted, for the footer of a table: "method: flag"."""
    flags: dict[str, None] = {}
    for name, records in groups.items():
        for record in records:
            flags |= dict.fromkeys(f"{name}: {flag}" for flag in record.final[which].get("flags", ()))
    return list(flags)
