"""Rows of tables from records, and Markdown from rows; pure functions."""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from advcore.errors import format_count
from advcore.pixels import format_pixels
from advcore.reporting import costs, spent
from advcore.reporting.collapse import count_runs, drop_collapsed
from advcore.reporting.record import BY_PATH, JsonObject, RunRecord

Row = Sequence[str]
# Records by the name of their method.
Groups = Mapping[str, Sequence[RunRecord]]
# A cell lists the counts of at most this many classes.
_CLASSES = 24
# The title of a column.
_CLEAN = "clean, %"
# What is folded where a page shows the last checkpoint.
BEST = "Accuracies of the best epoch on validation examples"
# The text of a cell for which the record holds nothing.
NOTHING = "–"


def to_markdown(header: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table: the first column aligned left, the others right. Short rows get empty cells."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(_join_cells(row, len(header)) for row in (header, rule, *rows))


def _join_cells(row: Row, width: int) -> str:
    cells = [cell.replace("|", "\\|") for cell in row] + [""] * (width - len(row))
    return f"| {' | '.join(cells)} |"


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
    return f"{format_percent(entry['accuracy'])} {format_bounds(entry)}"


def format_bounds(entry: JsonObject) -> str:
    """Write the interval of an accuracy, in percent: "[88.0, 93.6]"."""
    low, high = entry["interval"]
    return f"[{format_percent(low)}, {format_percent(high)}]"


def format_interval(entry: JsonObject) -> str:
    """Write the interval of an accuracy, in percent: "88.0 to 93.6"."""
    return " to ".join(map(format_percent, entry["interval"]))


def name_data(record: RunRecord) -> str:
    """Return the name of a run's data, such as "digits"; for data that is read from files, with the last part of
    their path."""
    data = record.config.get("data", {})
    return f"{data.get('name', '?')} {_name_file(data)}".rstrip()


def name_contents(config: JsonObject) -> str:
    """Return what data a run's settings name: a known data set, or the last part of the path of other data."""
    data = config.get("data", {})
    return _name_file(data) or str(data.get("name", "?"))


def _name_file(data: JsonObject) -> str:
    """Return the last part of the path of data that are identified by it; "" for a known data set."""
    if data.get("name") not in BY_PATH:
        return ""
    return str(data.get("path") or "").rstrip("/").rpartition("/")[2]


def describe_reference(reference: JsonObject) -> str:
    """Describe full training: "30 epochs, 10 attack steps"."""
    attack = "no attack" if reference["steps"] is None else format_count(reference["steps"], "attack step")
    return f"{format_count(reference['epochs'], 'epoch')}, {attack}"


def format_cell(value: object, form: str = "{}") -> str:
    """Write a value in a form; a dash where there is none."""
    return NOTHING if value is None else form.format(value)


def find_worst_case(evaluation: JsonObject) -> JsonObject | None:
    """Return the entry of an evaluation for all its attacks together; None where it has fewer than two."""
    return evaluation.get("worst") if len(evaluation["attacks"]) > 1 else None


def list_robust_entries(evaluation: JsonObject, together: str = "all of these") -> list[tuple[str, JsonObject]]:
    """Return the entry of each attack with its name; of several attacks, also that of all `together`.

    Where an attack saw fewer images than others, the accuracies under these come twice: on all of their images, and on
    those that all attacks saw. The name says how many that are.
    """
    entries = list(chain.from_iterable(map(_list_attack_entries, evaluation["attacks"], _list_shared(evaluation))))
    if worst := find_worst_case(evaluation):
        images = f", {format_count(worst['n'], 'image')}" if "shared" in evaluation else ""
        entries.append((f"{together}{images}", worst))
    return entries


def _list_shared(evaluation: JsonObject) -> Sequence[JsonObject | None]:
    """Return for each attack its entry on the images that all attacks saw; None where these are all images."""
    return evaluation.get("shared", {}).get("attacks") or [None] * len(evaluation["attacks"])


def _list_attack_entries(attack: JsonObject, shared: JsonObject | None) -> list[tuple[str, JsonObject]]:
    name = name_attack(attack)
    if shared is None:
        return [(name, attack)]
    images = format_count(shared["n"], "image")
    if shared["n"] == attack["n"]:
        return [(f"{name}, {images}", attack)]
    return [(name, attack), (f"{name}, the same {images}", shared)]


# ---- one run ----


def list_accuracy_rows(which: str, evaluation: JsonObject) -> list[Row]:
    """Return rows with the clean and the robust accuracies of a checkpoint, with intervals, and its flags."""
    clean = evaluation["clean"]
    return [
        (f"{which}: clean, % of {clean['n']}", format_accuracy(clean)),
        *((f"{which}: robust, % ({name})", format_accuracy(entry)) for name, entry in list_robust_entries(evaluation)),
        *((f"{which}: flag", flag) for flag in evaluation.get("flags", ())),
    ]


def list_closing_rows(record: RunRecord) -> list[Row]:
    """Return the table that ends a run.

    It holds the accuracies of both checkpoints (once where they are equal), the cost, the seconds of each phase, and
    the gradient error of each selection with that of random subsets.
    """
    last, best = record.final["last"], record.final["best"]
    checkpoints = {"last and best": last} if last == best else {"last": last, "best": best}
    spent = {phase: entry["seconds"] for phase, entry in record.ledger.items() if entry["seconds"] >= 0.05}
    errors = [(selection["epoch"], _format_gradient_error(selection)) for selection in record.selections]
    return [
        *chain.from_iterable(list_accuracy_rows(which, evaluation) for which, evaluation in checkpoints.items()),
        *costs.list_cost_rows(record),
        ("seconds by phase", ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in spent.items())),
        *((f"gradient error, selection at {epoch}", error) for epoch, error in errors if error),
    ]


def list_selection_rows(summary: JsonObject) -> list[Row]:
    """Return rows about a coreset, from its entry in the record. What was not measured has no row."""
    rows = [
        ("solver", f"{summary['solver']}, {summary['partition']}"),
        ("examples per class", _format_class_counts(summary["class_counts"])),
        ("gradient error", _format_gradient_error(summary)),
        ("gradient error as trained", format_cell(summary["gradient_error_trained"], "{:.3f}")),
        ("error against the target", format_cell(summary.get("target_error"), "{:.3f}")),
        ("weights, sum over examples", format_cell(summary["weight_sum"], "{:.3f}")),
        ("effective sample size, share", format_cell(summary["effective_sample_size"], "{:.3f}")),
        ("filled at random", str(summary["filled"])),
        ("rounds", str(summary["rounds"])),
        ("seconds", ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in summary["seconds"].items())),
        ("passes", f"{summary['passes']:,}"),
    ]
    return [(name, cell) for name, cell in rows if cell not in ("", NOTHING)]


def _format_class_counts(counts: Sequence[int]) -> str:
    if len(counts) <= _CLASSES:
        return ", ".join(map(str, counts))
    return f"{min(counts)} to {max(counts)}, in {len(counts)} classes"


def _format_gradient_error(selection: JsonObject) -> str:
    """Write the gradient error of a selection with that of random subsets; "" where no gradient was measured.

    "0.020 (random 0.500); against the full attack 0.031 ± 0.002", the latter where selection used a cheaper attack.
    """
    if selection["gradient_error"] is None:
        return ""
    text = f"{selection['gradient_error']:.3f} (random {selection['gradient_error_random']:.3f})"
    if selection.get("gradient_error_full") is not None:
        text += f"; against the full attack {selection['gradient_error_full']:.3f}"
        if selection["gradient_error_full_noise"]:
            text += f" ± {selection['gradient_error_full_noise']:.3f}"
    return text


# ---- several runs ----


def format_mean(values: Sequence[float]) -> str:
    """Write mean and sample standard deviation with one decimal; the mean alone of a single value, a dash of none."""
    if not values:
        return NOTHING
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def compare_methods(groups: Groups, which: str = "last", *, against: Sequence[RunRecord] = ()) -> tuple[Row, list[Row]]:
    """Return the header and the rows of a table that compares methods, one row per method.

    Each row holds the number of seeds, clean and robust accuracy (mean and deviation over seeds; collapsed runs are
    counted apart), the columns of costs (`spent.list_columns`), and the mean gradient error of the selections with
    that of random subsets; where selections used a cheaper attack, also that against the full attack.

    which : the checkpoint whose accuracies are compared, "last" or "best".
    against : the records of the method that speed-ups are relative to; without any there are no such columns.
    """
    titles = (_read_accuracies(records[0], which) for records in groups.values())
    accuracies = list(dict.fromkeys(chain([_CLEAN], *titles)))
    selections = _list_selections(list_records(groups))
    full = " [under the full attack]" if any("gradient_error_full" in entry for entry in selections) else ""
    columns = spent.list_columns(groups, against)
    errors = f"gradient error{full} (random subsets)"
    header = ("method", "seeds", *accuracies, *(column.title for column in columns), errors)
    rows: list[Row] = []
    for name, records in groups.items():
        cells = _format_accuracies(drop_collapsed(records, which), which, accuracies)
        cells += [format_cell(column.format(records)) for column in columns]
        rows.append((name, count_runs(records, which), *cells, _format_mean_errors(records)))
    return header, rows


def list_records(groups: Groups) -> list[RunRecord]:
    """Return the records of all methods."""
    return list(chain.from_iterable(groups.values()))


def _list_selections(records: Iterable[RunRecord]) -> list[JsonObject]:
    return list(chain.from_iterable(record.selections for record in records))


def _read_accuracies(record: RunRecord, which: str) -> dict[str, float]:
    """Return the accuracies of a checkpoint, in percent, by the title of their column.

    An attack that has the name of an earlier one gets a number, "(2)". With several attacks, the accuracy under all
    of them together is added.
    """
    evaluation = record.final[which]
    accuracies = {_CLEAN: 100 * evaluation["clean"]["accuracy"]}
    times: Counter[str] = Counter()
    for name, entry in list_robust_entries(evaluation):
        times[name] += 1
        number = f" ({times[name]})" if times[name] > 1 else ""
        accuracies[f"robust, % ({name}{number})"] = 100 * entry["accuracy"]
    return accuracies


def _format_accuracies(records: Sequence[RunRecord], which: str, titles: Iterable[str]) -> list[str]:
    """Return the mean accuracies of the columns with these titles; one that no record has gets a dash."""
    accuracies = [_read_accuracies(record, which) for record in records]
    columns = ([entry[title] for entry in accuracies if title in entry] for title in titles)
    return list(map(format_mean, columns))


def _format_mean_errors(records: Sequence[RunRecord]) -> str:
    """Write the mean gradient error of all selections with that of random subsets: "0.020 [0.031] (0.500)"."""
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
    return list(dict.fromkeys(f"{name}: {flag}" for name, flag in iterate_flags(groups, which)))


def iterate_flags(groups: Groups, which: str) -> Iterator[tuple[str, str]]:
    """Yield each flag of each record, after the name of its method."""
    for name, records in groups.items():
        for record in records:
            yield from ((name, flag) for flag in record.final[which].get("flags", ()))
