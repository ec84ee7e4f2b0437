"""What all pages share: accuracies and costs of methods, the front, and tested differences in words."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from advcore.reporting import compare
from advcore.reporting import front as pareto
from advcore.reporting.clock import read_clock
from advcore.reporting.collapse import drop_collapsed
from advcore.reporting.costs import Unit, choose_unit
from advcore.reporting.record import RunRecord
from advcore.reporting.spent import explain_columns
from advcore.reporting.statistics import Comparison, Difference, Estimate, estimate_mean
from advcore.reporting.tables import compare_methods, list_records, name_attack, to_markdown
from advcore.reporting.tables import list_flags as read_flags
from advcore.reporting.verdicts import pair_runs

BENCHMARKS = Path(__file__).resolve().parents[1]
RECORDS = BENCHMARKS / "records"
DOCS = BENCHMARKS.parent / "docs"
GLOSSARY = "../docs/glossary.md"
"""From the pages in benchmarks/."""
UNITS = {"compute": "compute", "passes": "pass"}
"""The entry of the glossary for each unit of cost."""
Groups = Mapping[str, Sequence[RunRecord]]
Pairs = Sequence[tuple[str, str]]
Tested = Mapping[tuple[str, str], Comparison]
"""The comparisons of a page, by section and question."""


def robust(records: Sequence[RunRecord]) -> list[float]:
    """Robust accuracies of `last`, in percent, one per seed that did not collapse."""
    return [compare.robust_accuracy(record) for record in drop_collapsed(records)]


def unit_of(found: Groups) -> Unit:
    """The unit in which the costs of a page are counted."""
    return choose_unit(list_records(found))


def cost(found: Groups, name: str) -> float:
    """The relative cost of a method, in the unit of the page."""
    return statistics.fmean(map(unit_of(found).compare, found[name]))


def table(found: Groups, which: str = "last", reference: str = "full") -> str:
    """All methods; with speed-ups over `reference` where seconds can be compared."""
    return to_markdown(*compare_methods(found, which, against=speed_reference(found, reference)))


def speed_reference(found: Groups, reference: str = "full") -> Sequence[RunRecord]:
    """The records that speed-ups are relative to; none where seconds cannot be compared."""
    return found.get(reference, ()) if read_clock(found).comparable else ()


def cost_notes(found: Groups, reference: str = "full") -> str:
    """Explain the columns of attacks, costs, seconds and gradient errors of such a table."""
    shown = reference if speed_reference(found, reference) else None
    return " ".join([*explain_restarts(found), *explain_columns(found, shown), *explain_errors(found)])


def explain_restarts(found: Groups) -> list[str]:
    """Return what "x 3" means in the title of a column; nothing where no attack has restarts."""
    attacks = [attack for record in list_records(found) for attack in record.final["last"]["attacks"]]
    restarted = [attack for attack in attacks if attack.get("restarts", 1) > 1]
    if not restarted:
        return []
    name, count = name_attack(restarted[0]).rpartition(", ")[2], restarted[0]["restarts"]
    return [f"{name} means {count} random starts per image."]


def explain_errors(found: Groups) -> list[str]:
    """Return what the column of gradient errors holds; nothing where no selection measured one."""
    selections = [entry for record in list_records(found) for entry in record.selections]
    if not any(entry.get("gradient_error") is not None for entry in selections):
        return []
    lines = ["Gradient errors are means over selections. Those of random subsets are in parentheses."]
    if any("gradient_error_full" in entry for entry in selections):
        lines.append("If the selection used a weaker attack, those under the full attack are in square brackets.")
    return lines


def describe_means(found: Groups, n: str, device: str, glossary: str = GLOSSARY) -> str:
    """Return what the accuracies of a table are means of, and in which unit its costs are."""
    means = f"Accuracies are means ± sample standard deviations over seeds, on {n} test images."
    return f"{means} The device was {device}. {describe_unit(found, glossary)}"


def describe_unit(found: Groups, glossary: str = GLOSSARY) -> str:
    """Return the unit in which the costs of a table are, with a link to the glossary at this path."""
    name = unit_of(found).name
    return f"Costs are counted in [{name}]({glossary}#{UNITS[name]})."


def reword_flag(flag: str) -> str:
    """Write the flag of an older record as advcore words it today."""
    return flag.replace("are lost, and right further along", "are misclassified, but correct further along")


def list_flags(found: Groups, which: str) -> list[str]:
    """The flags of a checkpoint, each with its method."""
    return [reword_flag(flag) for flag in read_flags(found, which)]


def front(found: Groups) -> list[str]:
    """The methods on the Pareto front of cost and robust accuracy (mean over seeds), by cost."""
    return [method.name for method in pareto.find_front(compare.summarize_methods(found))]


def several(found: Groups, *names: str) -> bool:
    """Whether all of these have more than one seed."""
    return all(len(found.get(name, ())) > 1 for name in names)


def gap(found: Groups, method: str, other: str) -> Estimate:
    """Difference in robust accuracy over the seeds that both have."""
    return estimate_mean(pair_runs(found, [(method, other)]))


def gap_text(found: Groups, method: str, other: str) -> str:
    """The difference with its 95 % interval; of a single seed, the difference alone."""
    estimate = gap(found, method, other)
    return f"{estimate.mean:+.1f} ± {estimate.half_width:.1f}" if estimate.freedom else f"{estimate.mean:+.1f}"


def describe_gap(found: Groups, method: str, other: str) -> str:
    """Describe a difference that is not tested, with the costs."""
    costs = [cost(found, name) for name in (method, other)]
    return f"{gap_text(found, method, other)} points compared with {other} (costs {costs[0]:.2f} and {costs[1]:.2f})"


def ask(
    section: str, found: Groups, questions: Mapping[str, Pairs], which: str = "last"
) -> dict[tuple[str, str], list[Difference]]:
    """What `statistics.compare_all` tests: the differences of each question's pairs, of several seeds each."""
    asked = {}
    for question, pairs in questions.items():
        differences = pair_runs(found, [pair for pair in pairs if several(found, *pair)], which)
        if differences:
            asked[section, question] = differences
    return asked


def ask_all(sections: Mapping[str, Groups], questions: Mapping[str, Pairs]) -> dict[tuple[str, str], list[Difference]]:
    """The same questions of each section (`ask`)."""
    return {key: values for title, found in sections.items() for key, values in ask(title, found, questions).items()}


WORDS = {"beats": "better", "below": "worse", "level": "not beyond chance"}


def verdict(comparison: Comparison, words: Mapping[str, str] = WORDS) -> str:
    """A tested difference in words."""
    estimate = comparison.estimate
    told = f"{estimate.mean:+.2f} ± {estimate.half_width:.2f} points, {estimate.count} pairs of runs"
    return f"{words[comparison.verdict]} ({told}; p = {estimate.p:.4f}, corrected {comparison.corrected:.3f})"


ANSWERS = {"beats": "helps", "below": "hurts", "level": "not beyond chance"}


def answers(section: str, found: Groups, questions: Mapping[str, Pairs], tested: Tested) -> str:
    """One paragraph per question: the tested difference of all its pairs together, then that of each pair."""
    lines = []
    for question, pairs in questions.items():
        if (section, question) in tested:
            lines += [f"**{question}**: {verdict(tested[section, question], ANSWERS)}.", ""]
            lines += [f"- {one}: {describe_gap(found, one, two)}." for one, two in pairs if several(found, one, two)]
            lines.append("")
    return "\n".join(lines)


def between(page: str, name: str, text: str) -> str:
    """`page` with `text` between the marks of that name. Raises ValueError unless each is there once."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = page.split(start)
    _, after = rest.split(end)
    return f"{before}{start}\n{text}\n{end}{after}"
