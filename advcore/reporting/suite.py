"""The tables of a suite and its page: the results of its runs, and which of them failed or are missing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from advcore.errors import format_count
from advcore.reporting import compare, costs, parts, spent, tables, verdicts
from advcore.reporting.columns import Columns, describe_columns, insert_columns
from advcore.reporting.headroom import find_last_entry
from advcore.reporting.record import JsonObject, RunRecord
from advcore.reporting.shared_scores import describe_scores
from advcore.types import Flag

# The marks of methods whose evaluations have flags, one for each kind of flag.
MARKS = ("†", "‡", "§", "¶", "‖", "††", "‡‡", "§§")


@dataclass(frozen=True)
class Entry:
    """A run of a suite: of a method, with a seed.

    record : None for a run that failed or is missing.
    error : why the run failed.
    hash : of its settings.
    """

    method: str
    seed: int
    record: RunRecord | None
    error: str | None = None
    hash: str = ""

    @property
    def status(self) -> str:
        """Return "done", "failed" or "missing"."""
        if self.record:
            return "done"
        return "failed" if self.error else "missing"


@dataclass
class Results:
    """The runs of a suite.

    reference : the method that speed-ups are relative to.
    without : the names of baselines that the suite leaves out.
    columns : attacks whose mean has a column (`columns.Columns`).
    entries : the runs, in the order of the suite.
    """

    reference: str | None
    without: Sequence[str] = ()
    columns: Columns = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def add(
        self, method: str, seed: int, record: RunRecord | None, *, error: str | None = None, hash: str = ""
    ) -> None:
        self.entries.append(Entry(method, seed, record, error=error, hash=hash))

    def groups(self) -> dict[str, list[RunRecord]]:
        """Return the records by method. Methods without a record are left out."""
        groups: dict[str, list[RunRecord]] = {}
        for entry in self.entries:
            if entry.record is not None:
                groups.setdefault(entry.method, []).append(entry.record)
        return groups

    def methods(self) -> list[str]:
        return list(dict.fromkeys(entry.method for entry in self.entries))


@dataclass(frozen=True)
class Table(parts.Table):
    """A table of a page with `notes`, lines of text below it.

    caption : the text above it.
    header, rows : the cells. A row of a single cell spans all columns.
    """

    notes: Sequence[str] = ()

    def markdown(self) -> str:
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([f"**{self.caption}**", "", tables.to_markdown(self.header, self.rows), "", *notes, ""])


def build_tables(results: Results, title: str) -> list[Table]:
    """Return a table for each checkpoint, last and best, and one of differences where any can be tested.

    Where no run has finished, it is a single table that says so.
    """
    if results.groups():
        checkpoints = [build_table(results, title, "last"), build_table(results, title, "best")]
        return checkpoints + _build_differences(results, title)
    rows = list(chain.from_iterable(_list_unfinished(method, results) for method in results.methods()))
    return [Table(title, ("method",), rows, notes=["No run has finished."])]


def build_table(results: Results, title: str, which: str) -> Table:
    """Return the table of a checkpoint: one row per method, and rows for what failed or is missing.

    Accuracies are mean ± sample standard deviation over seeds.
    """
    groups = results.groups()
    against: Sequence[RunRecord] = groups.get(results.reference or "", ())
    compared = tables.compare_methods(groups, which, against=against)
    header, method_rows = insert_columns(compared, groups, which, results.columns)
    marks, legend = _mark_flags(groups, which)
    marked = {row[0]: [(row[0] + marks.get(row[0], ""), *row[1:])] for row in method_rows}
    rows: list[tables.Row] = []
    for method in results.methods():
        rows += [*marked.get(method, ()), *_list_unfinished(method, results)]
    notes = [*legend, _describe_conditions(groups, which), *_describe_costs(results)]
    notes += [*describe_columns(results.columns), *describe_scores(groups)]
    if results.without:
        notes.append(f"The suite leaves out these automatic baselines: {', '.join(results.without)}.")
    return Table(f"{title}: checkpoint {which}", header, rows, notes=notes)


def _build_differences(results: Results, title: str) -> list[Table]:
    rows, note = verdicts.tabulate(results.groups(), results.reference or "")
    if not rows:
        return []
    return [Table(f"{title}: differences, checkpoint last", verdicts.HEADER, rows, words=2, notes=[note])]


def _list_unfinished(method: str, results: Results) -> list[tables.Row]:
    """Return a row for each seed of a method that failed, and one for all seeds that are missing."""
    entries = [entry for entry in results.entries if entry.method == method]
    rows = [f"{method}, seed {entry.seed}: failed: {entry.error}" for entry in entries if entry.status == "failed"]
    missing = [str(entry.seed) for entry in entries if entry.status == "missing"]
    if missing:
        rows.append(f"{method}: missing, seed {', '.join(missing)}")
    return [(row,) for row in rows]


def _mark_flags(groups: tables.Groups, which: str) -> tuple[dict[str, str], list[str]]:
    """Return the marks of each method, and for each kind of flag a line that says which methods have it and why.

    The kind of a flag is the word before its colon.
    """
    kinds: dict[str, dict[str, list[str]]] = {}  # the names of methods, by kind and text of the flag
    for name, line in tables.iterate_flags(groups, which):
        flag = Flag.read(line)
        kinds.setdefault(flag.kind, {}).setdefault(flag.text, []).append(name)
    marks: dict[str, str] = {}
    legend = []
    for i, (kind, flags) in enumerate(kinds.items()):
        mark = MARKS[i] if i < len(MARKS) else f"[{i}]"
        for name in dict.fromkeys(chain.from_iterable(flags.values())):
            marks[name] = f"{marks.get(name, '')} {mark}"
        reasons = "; ".join(f"{_name_methods(names, groups)}: {text}" for text, names in flags.items())
        legend.append(f"{mark} flagged as {kind}, not to be trusted: {reasons}.")
    return marks, legend


def _name_methods(names: Sequence[str], groups: tables.Groups) -> str:
    """List the names of methods, each once; all of several methods are "every method"."""
    unique = list(dict.fromkeys(names))
    if len(unique) == len(groups) > 1:
        return "every method"
    return ", ".join(unique)


def _describe_conditions(groups: tables.Groups, which: str) -> str:
    evaluation = tables.list_records(groups)[0].final[which]
    images = evaluation["clean"]["n"]
    attacked = {tables.name_attack(attack): attack["n"] for attack in evaluation["attacks"]}
    fewer = "".join(f", {count:,} of them under {name}" for name, count in attacked.items() if count != images)
    varied = verdicts.describe_varied(groups)
    means = "Accuracies are means ± sample standard deviations over seeds"
    return f"{means}, on {format_count(images, 'test image')}{fewer}. {varied}"


def _describe_costs(results: Results) -> list[str]:
    """Say what speed-ups and relative costs are relative to, and which methods have other data."""
    groups = results.groups()
    records = tables.list_records(groups)
    lines = []
    reference = results.reference
    if reference and reference not in groups:
        lines.append(f"No speed-ups: {reference}, which the others are compared with, has no record.")
        reference = None
    lines += spent.explain_columns(groups, reference)
    unit = costs.choose_unit(records)
    if len({record.reference.get(unit.of_reference) for record in records}) > 1:
        lines.append("Relative costs are each relative to full training with the method's objective, on its data.")
    return lines + compare.find_data_differences(groups)


# ---- all numbers, for a spreadsheet ----

_IDENTITY = ("suite", "size", "method", "seed", "status", "error", "settings")
_SPENT = ("relative_cost_compute", "relative_cost_passes", "seconds", "trained_seconds")


def list_raw_rows(results: Results, suite: str, size: str | None) -> tuple[tables.Row, list[tables.Row]]:
    """Return header and rows with the unrounded numbers of the records, one row per run.

    Accuracies are fractions. What a run does not have is an empty cell.
    """
    numbers = [_read_numbers(entry.record) if entry.record else {} for entry in results.entries]
    columns = list(dict.fromkeys(chain(_SPENT, *numbers)))
    rows: list[tables.Row] = []
    for entry, values in zip(results.entries, numbers, strict=True):
        identity = (suite, size or "", entry.method, entry.seed, entry.status, entry.error or "", entry.hash)
        rows.append(tuple(map(str, (*identity, *(values.get(name, "") for name in columns)))))
    return (*_IDENTITY, *columns), rows


def _read_numbers(record: RunRecord) -> dict[str, object]:
    """Return the numbers of a record by column.

    They are its cost and seconds, the accuracies of both checkpoints with their 95 % intervals, gradient errors, the
    last epoch's headroom, the seconds of each phase, and the environment.
    """
    compute = costs.COMPUTE.compare(record) if costs.has_compute(record) else ""
    seconds = (record.seconds, costs.sum_training_seconds(record))
    numbers = (compute, costs.PASSES.compare(record), *seconds)
    accuracies = chain(_read_accuracies(record, "last"), _read_accuracies(record, "best"))
    values: dict[str, object] = dict(chain(zip(_SPENT, numbers, strict=True), accuracies))
    selections = [selection for selection in record.selections if selection["gradient_error"] is not None]
    for name in ("gradient_error", "gradient_error_random"):
        errors = [selection[name] for selection in selections]
        values[name] = sum(errors) / len(errors) if errors else ""
    entry = find_last_entry(record)
    values["headroom"] = "" if entry is None else entry["headroom"]
    values |= {f"seconds {phase}": entry["seconds"] for phase, entry in record.ledger.items()}
    return values | {name: record.environment.get(name, "") for name in ("device", "threads", "commit", "torch")}


def _read_accuracies(record: RunRecord, which: str) -> Iterator[tuple[str, object]]:
    evaluation: JsonObject = record.final[which]
    entries = {"clean": evaluation["clean"]}
    entries |= {
        f"robust {i} ({tables.name_attack(attack)})": attack for i, attack in enumerate(evaluation["attacks"], 1)
    }
    shared = evaluation.get("shared", {}).get("attacks", ())
    entries |= {f"robust {i} (images that all attacks saw)": attack for i, attack in enumerate(shared, 1)}
    if worst := tables.find_worst_case(evaluation):
        entries["robust (all of these)"] = worst
    for name, entry in entries.items():
        yield f"{which} {name}", entry["accuracy"]
        yield from zip((f"{which} {name} low", f"{which} {name} high"), entry.get("interval", ()), strict=False)
    yield f"{which} n", evaluation["clean"]["n"]
    yield f"{which} flags", "; ".join(evaluation.get("flags", ()))
