"""The pages of the papers' tables and figures: our records and the published numbers (benchmarks/published.yaml)."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

import tables
from figures import BENCHMARKS, Groups, cost, cost_notes, list_flags, robust, table

from advcore.config.load import from_dict, resolve
from advcore.config.yaml_reader import read
from advcore.errors import format_count
from advcore.reporting import verdicts
from advcore.reporting.collapse import count_runs, drop_collapsed
from advcore.reporting.columns import describe_columns, find_accuracy
from advcore.reporting.record import RunRecord
from advcore.reporting.shared_scores import describe_scores
from advcore.reporting.tables import NOTHING, Row, format_mean, to_markdown
from advcore.reporting.verdicts import describe_varied

PUBLISHED = read(BENCHMARKS / "published.yaml")
FOLDER = BENCHMARKS / "papers"
INDEX = BENCHMARKS / "papers.md"
SIZE = "small"
MISSING = "not published in numbers"
NOT_RUN = "not run yet"
NO_ROW = "not in the suite"
KINDS = {
    "printed": "The published numbers are printed ones.",
    "digitised": "The published numbers are digitised from a drawing.",
}
OURS = "Our numbers are means ± sample deviations over seeds, for checkpoint `last`."
DURATIONS = ("minutes", "seconds")
"""Columns that only the papers have; their speed-ups are computed from them."""


class Table:
    """One page: the suite's records and the published numbers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.page = PUBLISHED["pages"][name]
        self.suite = tables.suite_of(f"papers/{name}", SIZE)
        self.groups: Groups = tables.groups(f"papers/{name}", SIZE)
        self.methods = tables.methods_of(f"papers/{name}", SIZE)
        self.reference = self.page.get("relative_to", self.suite.reference)

    def list_rows(self) -> list[str]:
        """The suite's methods, and published rows that it lacks."""
        return list(dict.fromkeys([*self.methods, *self.page["rows"]]))


def format_published(page: Mapping, method: str, column: str) -> str:
    """A published number as it was entered, marked if it was digitised."""
    value = page["rows"].get(method, {}).get(column)
    if value is None:
        return MISSING
    return f"{value} ({page['kind']})" if page["kind"] == "digitised" else str(value)


def compute_speed_up(page: Mapping, method: str, reference: str, column: str) -> str:
    """The published speed-up, from the published times."""
    times = [page["rows"].get(name, {}).get(column) for name in (reference, method)]
    return MISSING if None in times else f"{times[0] / times[1]:.2f}"


def format_measured(of: Table, method: str, column: str) -> str:
    """Our number in a column, as mean and deviation over seeds."""
    if method not in of.methods:
        return NO_ROW
    if method not in of.groups or (column in ("error", "speed_up") and of.reference not in of.groups):
        return NOT_RUN
    if column == "speed_up":
        return f"{cost(of.groups, of.reference) / cost(of.groups, method):.2f}"
    if column == "error":
        return format_error(of.groups, method, of.reference)
    return format_mean(list_accuracies(of, method, column)) or NOTHING


def format_error(groups: Groups, method: str, reference: str) -> str:
    """Robust accuracy of the reference less the method's, in points."""
    values = [robust(groups[name]) for name in (reference, method)]
    return f"{statistics.fmean(values[0]) - statistics.fmean(values[1]):.1f}" if all(values) else NOTHING


def list_accuracies(of: Table, method: str, column: str) -> list[float]:
    """The accuracies of the runs, checkpoint `last`, in percent; collapsed runs are left out."""
    labels = of.suite.columns.get(column, ())
    runs = drop_collapsed(of.groups[method])
    return [100 * accuracy for run in runs for accuracy in read_accuracy(run, column, labels)]


def read_accuracy(record: RunRecord, column: str, labels: Sequence[str]) -> Iterator[float]:
    """Yield the accuracy of a run in a column; nothing where the record lacks one of the attacks."""
    final = record.final["last"]
    if column in ("clean", "robust"):
        yield (final["clean"] if column == "clean" else final["attacks"][0])["accuracy"]
        return
    accuracies = [find_accuracy(record, "last", label) for label in labels]
    if accuracies and None not in accuracies:
        yield statistics.fmean(accuracies)


def make_header(page: Mapping) -> Row:
    """The titles: each column ours and published; times only as published, followed by the speed-ups."""
    titles = ["method", "seeds"]
    for column, title in page["columns"].items():
        if column in DURATIONS:
            titles += [f"{title}: published", "speed-up: ours, in compute", "speed-up: published"]
        else:
            titles += [f"{title}: ours", f"{title}: published"]
    return titles


def make_row(of: Table, method: str) -> Row:
    """The cells of a method."""
    cells = [method, count_runs(of.groups.get(method, []))]
    for column in of.page["columns"]:
        published = format_published(of.page, method, column)
        if column in DURATIONS:
            ours = format_measured(of, method, "speed_up")
            cells += [published, ours, compute_speed_up(of.page, method, of.reference, column)]
        else:
            cells += [format_measured(of, method, column), published]
    return cells


def describe_run(settings: Mapping) -> str:
    """Data, network, epochs, batches and attack of a run file."""
    config = resolve(from_dict(settings))
    data, model, training, attack = (config[part] for part in ("data", "model", "training", "attack"))
    shape = f"{data['name']}, {model['name']}, {format_count(training['epochs'], 'epoch')}"
    return f"{shape}, batches of {training['batch_size']}, {describe_attack(attack)}"


def describe_attack(attack: Mapping | None) -> str:
    """The attack of training, with its steps."""
    if attack is None:
        return "no attack"
    steps = attack.get("steps")
    return f"{attack['name']} of {format_count(steps, 'step')}" if steps else attack["name"]


def describe_differences(of: Table) -> list[str]:
    """The differences between our runs and the paper's."""
    reference = of.suite.reference or next(iter(of.suite.methods))
    here, there = (
        describe_run(tables.suite_of(f"papers/{of.name}", size).methods[reference]) for size in (SIZE, "full")
    )
    full = f"The size `full` has the paper's settings where these are known: {there}; it has not been run."
    return [f"Differences from the paper. Here: {here}. {full} {of.page['differs']}"]


def list_claims(page: Mapping) -> list[str]:
    """Published numbers that are in no row."""
    return [f"- {claim['place']}: {claim['value']} {claim['text']}." for claim in page.get("claims", [])]


def text(name: str) -> str:
    """benchmarks/papers/NAME.md."""
    of = Table(name)
    paper, place, kind = PUBLISHED["papers"][of.page["paper"]], of.page["place"], of.page["kind"]
    lines = [f"# {of.suite.title}", "", f"{paper}, {place}. Suite `papers/{name}`, `--size {SIZE}`. "]
    lines[-1] += KINDS[kind] if of.page["rows"] else "The paper has no numbers for these rows."
    lines += ["", *describe_differences(of), "", OURS, ""]
    lines += [to_markdown(make_header(of.page), [make_row(of, method) for method in of.list_rows()]), ""]
    claims = list_claims(of.page)
    lines += ["The paper also states:", "", *claims, ""] if claims else []
    return "\n".join([*lines, *list_ours(of)])


def list_ours(of: Table) -> list[str]:
    """Our runs in full: both checkpoints with costs, and tested differences."""
    if not of.groups:
        return ["No run has finished yet: [schedule](../schedule.md).", ""]
    reference = of.suite.reference or ""
    first = next(iter(of.groups.values()))[0]
    n, device = first.final["last"]["clean"]["n"], first.environment["device"]
    lines = ["## Our runs", "", f"{n:,} test images, device {device}. {describe_varied(of.groups)} "]
    lines[-1] += cost_notes(of.groups, reference)
    lines += [f"\n{line}" for line in (*describe_columns(of.suite.columns), *describe_scores(of.groups))]
    for which in ("last", "best"):
        lines += ["", f"Checkpoint `{which}`:", "", table(of.groups, which, reference)]
        flags = list_flags(of.groups, which)
        lines += [f"\nFlags: {'; '.join(flags)}."] if flags else []
    rows, note = verdicts.tabulate(of.groups, reference)
    lines += ["", "Differences, checkpoint `last`:", "", to_markdown(verdicts.HEADER, rows), "", note] if rows else []
    return [*lines, ""]


INDEX_HEAD = """# The papers' tables and figures

Each row has a table or figure, its suite (`advcore bench benchmarks/suites/papers/NAME.yaml --size small`), its page,
and the number of finished runs. The [schedule](schedule.md) has the hours. Published numbers come from
[published.yaml](published.yaml).
"""


def index_text() -> str:
    """benchmarks/papers.md."""
    rows = []
    for name, page in PUBLISHED["pages"].items():
        of = Table(name)
        done = sum(map(len, of.groups.values()))
        planned = len(of.methods) * len(of.suite.seeds)
        numbers = page["kind"] if page["rows"] else MISSING
        place = f"{PUBLISHED['papers'][page['paper']]}, {page['place']}"
        rows.append((place, f"[{name}](papers/{name}.md)", numbers, f"{done} of {planned}"))
    header = ("table or figure", "suite and page", "published numbers", "runs done, size small")
    lines = [INDEX_HEAD, to_markdown(header, rows), "", "Not reproduced:", ""]
    for entry in PUBLISHED["not_rebuilt"]:
        lines.append(f"- {PUBLISHED['papers'][entry['paper']]}, {entry['place']}: {entry['why']}.")
    return "\n".join([*lines, ""])


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in PUBLISHED["pages"]:
        (FOLDER / f"{name}.md").write_text(text(name))
    INDEX.write_text(index_text())
