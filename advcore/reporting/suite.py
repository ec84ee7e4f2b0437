"""A suite's records to tables: what there is of each run, whether it is done, failed or missing; pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from advcore.errors import counted
from advcore.reporting.compare import different_data
from advcore.reporting.record import RunRecord
from advcore.reporting.tables import Row, attack_label, comparison, markdown, together, trained_seconds

MARKS = ("†", "‡", "§", "¶", "‖", "††", "‡‡", "§§")
"""Beside a method, for a kind of flag that its evaluations have."""


@dataclass(frozen=True)
class Entry:
    """A run, of a method with a seed.

    record : None where there is none; error : then why it failed, if it did. hash : of its settings.
    """

    method: str
    seed: int
    record: RunRecord | None
    error: str | None = None
    hash: str = ""


@dataclass
class Results:
    """Of a suite. reference : the method that others are set beside; without : names of baselines left out; entries :
    its runs, in its order."""

    reference: str | None
    without: Sequence[str] = ()
    entries: list[Entry] = field(default_factory=list)

    def add(
        self, method: str, seed: int, record: RunRecord | None, *, error: str | None = None, hash: str = ""
    ) -> None:
        self.entries.append(Entry(method, seed, record, error, hash))

    def groups(self) -> dict[str, list[RunRecord]]:
        """Records by method; methods without one are left out."""
        found: dict[str, list[RunRecord]] = {}
        for entry in self.entries:
            if entry.record is not None:
                found.setdefault(entry.method, []).append(entry.record)
        return found

    def methods(self) -> list[str]:
        return list(dict.fromkeys(entry.method for entry in self.entries))


@dataclass(frozen=True)
class Table:
    """caption and notes : lines of text; header : a cell a column; rows : those of one cell span all columns."""

    caption: str
    header: Row
    rows: list[Row]
    notes: list[str]

    def markdown(self) -> str:
        lines = [f"**{self.caption}**", "", markdown(self.header, self.rows), ""]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes), ""])


def tables(results: Results, title: str) -> list[Table]:
    """One for each checkpoint, last and best; one that says so where no run has come to its end."""
    return (
        [table(results, title, which) for which in ("last", "best")] if results.groups() else [_empty(results, title)]
    )


def table(results: Results, title: str, which: str = "last") -> Table:
    """A row a method, mean ± sample deviation over its seeds, and a row for whatever failed or is missing."""
    groups = results.groups()
    against = groups.get(results.reference, []) if results.reference else []
    alike = one_machine(groups)
    header, rows = comparison(groups, which, against=against, clock=alike is not None)
    marks, legend = _marks(groups, which)
    by_method = {row[0]: (row[0] + marks.get(row[0], ""), *row[1:]) for row in rows}
    told = [row for name in results.methods() for row in _rows(name, by_method, results)]
    return Table(f"{title}: checkpoint {which}", header, told, [*legend, *_notes(results, groups, which, alike)])


def _rows(method: str, known: dict[str, Row], results: Results) -> list[Row]:
    """A method's own row, if it has any record, then its failed and its missing seeds."""
    own = [entry for entry in results.entries if entry.method == method]
    rows = [known[method]] if method in known else []
    rows += [(f"{method}, seed {one.seed}: failed: {one.error}",) for one in own if one.record is None and one.error]
    missing = [str(one.seed) for one in own if one.record is None and not one.error]
    return rows + ([(f"{method}: missing, seed {', '.join(missing)}",)] if missing else [])


def _empty(results: Results, title: str) -> Table:
    rows = [row for name in results.methods() for row in _rows(name, {}, results)]
    return Table(title, ("method",), rows, ["No run has come to its end."])


def _marks(groups: dict[str, list[RunRecord]], which: str) -> tuple[dict[str, str], list[str]]:
    """Marks by method, and a line for each kind of flag (the word before its colon) that says who has it and why."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for name, records in groups.items():
        for record in records:
            for flag in record.final[which].get("flags", ()):
                kinds.setdefault(flag.split(":")[0], {}).setdefault(flag, []).append(name)
    marks, legend = {}, []
    for i, (kind, flags) in enumerate(kinds.items()):
        mark = MARKS[i] if i < len(MARKS) else f"[{i}]"
        for name in dict.fromkeys(name for names in flags.values() for name in names):
            marks[name] = f"{marks.get(name, '')} {mark}"
        told = "; ".join(f"{_whose(names, groups)}: {flag.partition(': ')[2] or flag}" for flag, names in flags.items())
        legend.append(f"{mark} flagged as {kind}, not to be trusted: {told}.")
    return marks, legend


def _whose(names: list[str], groups: dict[str, list[RunRecord]]) -> str:
    own = list(dict.fromkeys(names))
    return "every method" if len(own) == len(groups) > 1 else ", ".join(own)


def one_machine(groups: dict[str, list[RunRecord]]) -> str | None:
    """What all records were made on, device and threads; None where they differ, and so their seconds cannot be
    compared."""
    found = {
        (one.environment.get("device"), one.environment.get("platform"), *map(str, _beside(one)))
        for records in groups.values()
        for one in records
    }
    if len(found) != 1:
        return None
    device, _, threads, processes = found.pop()
    return f"{device}, {threads} thread{'' if threads == '1' else 's'}" + (
        f", {processes} processes" if processes != "1" else ""
    )


def _beside(record: RunRecord) -> tuple[int, int]:
    return record.environment.get("threads", 1), record.environment.get("processes", 1)


def _notes(results: Results, groups: dict[str, list[RunRecord]], which: str, alike: str | None) -> list[str]:
    """What the numbers are of."""
    any_one = next(iter(groups.values()))[0]
    entry = any_one.final[which]
    attacked = {label["n"] for label in entry["attacks"]}
    n = counted(entry["clean"]["n"], "test image") + (
        f", {min(attacked)} attacked" if attacked - {entry["clean"]["n"]} else ""
    )
    lines = [f"Mean ± sample deviation over seeds; {n}."]
    devices = sorted({str(one.environment.get("device")) for records in groups.values() for one in records})
    if results.reference and results.reference not in groups:
        lines.append(f"No speed-ups: {results.reference}, which the others are set beside, has no record.")
    elif results.reference:
        lines.append(f"Speed-ups are relative to {results.reference}: of forward and backward passes (cost)" + (
            f", and of seconds of training and selection; all runs on {alike}." if alike
            else f"; not of seconds, since the records come from several machines ({', '.join(devices)})."
        ))  # fmt: skip
    else:
        lines.append(f"Device: {', '.join(devices)}.")
    if len({one.reference.get("units") for records in groups.values() for one in records}) > 1:
        lines.append("Relative costs are each relative to full training with the method's objective, on its data.")
    lines += different_data(groups)
    if results.without:
        lines.append(f"The suite leaves out baselines that would be added by themselves: {', '.join(results.without)}.")
    return lines


RAW = ("suite", "size", "method", "seed", "status", "error", "settings", "relative_cost", "seconds", "trained_seconds")


def raw(results: Results, suite: str, size: str | None) -> tuple[Row, list[Row]]:
    """Numbers as they are in the records, one row a run: for a spreadsheet or a script. Accuracies are fractions."""
    measured = [_measured(entry.record) if entry.record else {} for entry in results.entries]
    columns = list(dict.fromkeys(name for found in measured for name in found))
    rows = []
    for entry, found in zip(results.entries, measured, strict=True):
        one, status = entry.record, "done" if entry.record else "failed" if entry.error else "missing"
        spent = (one.relative_cost, one.seconds, trained_seconds(one)) if one else ("", "", "")
        told = (suite, size or "", entry.method, entry.seed, status, entry.error or "", entry.hash, *spent)
        rows.append(tuple(str(cell) for cell in (*told, *(found.get(name, "") for name in columns))))
    return (*RAW, *columns), rows


def _measured(record: RunRecord) -> dict[str, object]:
    """Columns that depend on the record: accuracies of both states with their 95 % intervals, gradient errors, seconds
    by phase, where."""
    found: dict[str, object] = {}
    for which in ("last", "best"):
        final = record.final[which]
        told = {"clean": final["clean"]}
        told |= {f"robust {i} ({attack_label(attack)})": attack for i, attack in enumerate(final["attacks"], 1)}
        told |= {"robust (all of these)": worst} if (worst := together(final)) else {}
        for name, entry in told.items():
            found[f"{which} {name}"] = entry["accuracy"]
            found |= dict(zip((f"{which} {name} low", f"{which} {name} high"), entry.get("interval", ()), strict=False))
        found[f"{which} n"] = final["clean"]["n"]
        found[f"{which} flags"] = "; ".join(final.get("flags", ()))
    errors = [one for one in record.selections if one["gradient_error"] is not None]
    for name in ("gradient_error", "gradient_error_random"):
        found[name] = sum(one[name] for one in errors) / len(errors) if errors else ""
    found |= {f"seconds {phase}": entry["seconds"] for phase, entry in record.ledger.items()}
    return found | {name: record.environment.get(name, "") for name in ("device", "threads", "commit", "torch")}
