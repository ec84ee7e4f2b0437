"""The pages of the papers' tables and figures: our records and the published numbers (benchmarks/published.yaml)."""

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence

import tables
from figures import BENCHMARKS, Groups, cost, cost_notes, describe_means, list_flags, robust, table

from advcore.config.load import from_dict, resolve
from advcore.config.yaml_reader import read
from advcore.errors import format_count
from advcore.reporting import verdicts
from advcore.reporting.collapse import count_runs, drop_collapsed
from advcore.reporting.columns import describe_columns, find_accuracy
from advcore.reporting.record import RunRecord
from advcore.reporting.shared_scores import describe_scores
from advcore.reporting.tables import NOTHING, Row, format_mean, name_attack, to_markdown
from advcore.reporting.verdicts import describe_varied

PUBLISHED = read(BENCHMARKS / "published.yaml")
FOLDER = BENCHMARKS / "papers"
INDEX = BENCHMARKS / "papers.md"
SIZE = "small"
MISSING = "not published in numbers"
NOT_RUN = "not run yet"
NO_ROW = "not in the suite"
KINDS = {
    "printed": "The published numbers were printed as numbers; none was read from a drawing.",
    "digitized": "The published numbers are digitized: they were read from a drawing.",
}
OURS = "Our numbers are means ± sample standard deviations over seeds, for checkpoint `last`."
GLOSSARY = "../../docs/glossary.md"
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
    """A published number as it was entered, marked if it was digitized."""
    value = page["rows"].get(method, {}).get(column)
    if value is None:
        return MISSING
    return f"{value} ({page['kind']})" if page["kind"] == "digitized" else str(value)


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


def make_header(of: Table) -> Row:
    """The titles: each column ours and published; times only as published, followed by the speed-ups."""
    titles = ["method", "seeds"]
    for column, title in of.page["columns"].items():
        if column in DURATIONS:
            titles += [f"{title}: published", "speed-up: ours, in compute", "speed-up: published"]
        elif column == "robust":
            titles += [f"robust, % ({name_evaluation(of)}): ours", f"{title}: published"]
        else:
            titles += [f"{title}: ours", f"{title}: published"]
    return titles


def name_evaluation(of: Table) -> str:
    """The first attack of our evaluation: "linf 0.1, PGD-50 x 3"."""
    method = of.suite.reference or next(iter(of.suite.methods))
    attack = resolve(from_dict(of.suite.methods[method]))["evaluation"]["attacks"][0]
    return name_attack({"restarts": 1, "norm": attack["name"].partition("_")[0], **attack})


def describe_labels(of: Table) -> str:
    """What the names of the rows mean: those that many pages have, then those of this page."""
    names = of.list_rows()
    lines = [f"*full* is [full training]({GLOSSARY}#full-training)."] if "full" in names else []
    for name in names:
        if re.fullmatch(r"random 0\.\d+", name):
            lines.append(f"*{name}* trains on a random subset of {100 * float(name.split()[1]):g} % of the data.")
            break
    lines += [
        f"*{name}* trains on all data for fewer epochs ([shortened]({GLOSSARY}#shortened))."
        for name in names
        if name.startswith("shortened")
    ]
    if any(name.startswith("random 0") and ", " in name for name in names):
        lines.append("The words after a comma in a *random* row are [settings](../../docs/settings.md).")
    lines += [of.page["labels"]] if "labels" in of.page else []
    if any(column in DURATIONS for column in of.page["columns"]):
        lines.append(f"Our speed-up is in [compute]({GLOSSARY}#compute), the published one in time.")
    if " x 3" in name_evaluation(of) and "robust" in of.page["columns"]:
        lines.append("*x 3* means 3 random starts per image.")
    return " ".join(lines)


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
    shape = f"data `{data['name']}`, network `{model['name']}`, {format_count(training['epochs'], 'epoch')}"
    return f"{shape}, batches of {training['batch_size']}, {describe_attack(attack)}"


def describe_attack(attack: Mapping | None) -> str:
    """The attack of training, with its steps."""
    if attack is None:
        return "no attack"
    steps = attack.get("steps")
    return f"`{attack['name']}` of {format_count(steps, 'step')}" if steps else f"`{attack['name']}`"


def describe_differences(of: Table) -> list[str]:
    """The differences between our runs and the paper's."""
    reference = of.suite.reference or next(iter(of.suite.methods))
    here, there = (
        describe_run(tables.suite_of(f"papers/{of.name}", size).methods[reference]) for size in (SIZE, "full")
    )
    full = f"The size `full` has the paper's settings where they are known: {there}. It has not been run."
    return [f"Our runs have these settings: {here}. {full} {of.page['differs']}"]


def list_claims(page: Mapping) -> list[str]:
    """Published numbers that are in no row."""
    return [f"- {claim['place']}: {claim['text'].format(claim['value'])}." for claim in page.get("claims", [])]


def text(name: str) -> str:
    """benchmarks/papers/NAME.md."""
    of = Table(name)
    paper, place, kind = PUBLISHED["papers"][of.page["paper"]], of.page["place"], of.page["kind"]
    lines = [f"# {of.suite.title}", "", f"This page compares our runs with {paper}, {place}. "]
    lines[-1] += f"The suite `papers/{name}` makes our runs with `--size {SIZE}`. "
    lines[-1] += KINDS[kind] if of.page["rows"] else "The paper has no numbers for these rows."
    lines += ["", *describe_differences(of), "", OURS, "", describe_labels(of), ""]
    lines += [to_markdown(make_header(of), [make_row(of, method) for method in of.list_rows()]), ""]
    claims = list_claims(of.page)
    lines += ["The paper also states:", "", *claims, ""] if claims else []
    return "\n".join([*lines, *list_ours(of)])


def list_ours(of: Table) -> list[str]:
    """Our runs in full: both checkpoints with costs, and tested differences."""
    if not of.groups:
        return ["No run has finished yet. The [schedule](../schedule.md) lists the runs.", ""]
    reference = of.suite.reference or ""
    first = next(iter(of.groups.values()))[0]
    n, device = first.final["last"]["clean"]["n"], first.environment["device"]
    lines = ["## Our runs", "", f"{describe_means(of.groups, f'{n:,}', device, GLOSSARY)} "]
    lines[-1] += f"{describe_varied(of.groups)} {cost_notes(of.groups, reference)}"
    lines += [f"\n{line}" for line in (*describe_columns(of.suite.columns), *describe_scores(of.groups))]
    for which in ("last", "best"):
        lines += ["", f"Checkpoint `{which}`:", "", table(of.groups, which, reference)]
        flags = list_flags(of.groups, which)
        lines += [f"\nFlags: {'; '.join(flags)}."] if flags else []
    rows, note = verdicts.tabulate(of.groups, reference)
    lines += ["", "Differences, checkpoint `last`:", "", to_markdown(verdicts.HEADER, rows), "", note] if rows else []
    return [*lines, ""]


INDEX_HEAD = """# The papers' tables and figures

Each row shows a table or figure of a paper, the suite that repeats it, and the number of finished runs. The name of
the suite links to its page. `advcore bench benchmarks/suites/papers/NAME.yaml --size small` runs a suite, and the
[schedule](schedule.md) lists the hours. Published numbers are entered in [published.yaml](published.yaml): *printed*
numbers are in the text or tables of a paper, *digitized* ones are read from a drawing.
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
    lines = [INDEX_HEAD, to_markdown(header, rows), "", "These tables and figures are not reproduced:", ""]
    for entry in PUBLISHED["not_rebuilt"]:
        lines.append(f"- {PUBLISHED['papers'][entry['paper']]}, {entry['place']}: {entry['why']}.")
    return "\n".join([*lines, ""])


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in PUBLISHED["pages"]:
        (FOLDER / f"{name}.md").write_text(text(name))
    INDEX.write_text(index_text())
