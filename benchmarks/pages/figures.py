"""What the pages say of runs, once: accuracies and costs of methods, the front, what differs and whether by chance."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import scipy.stats

from advcore.reporting import compare
from advcore.reporting import front as pareto
from advcore.reporting.record import RunRecord

BENCHMARKS = Path(__file__).resolve().parents[1]
RECORDS = BENCHMARKS / "records"
DOCS = BENCHMARKS.parent / "docs"
Groups = Mapping[str, Sequence[RunRecord]]
Pairs = Sequence[tuple[str, str]]


def robust(records: Sequence[RunRecord]) -> list[float]:
    """Robust accuracies of `last`, in percent, one a seed."""
    return [compare.robust_accuracy(record) for record in records]


def cost(records: Sequence[RunRecord]) -> float:
    return statistics.fmean(record.relative_cost for record in records)


def front(found: Groups) -> list[str]:
    """Methods than which none is both no dearer and more robust (mean over seeds), by cost."""
    return [method.name for method in pareto.find_front(compare.summarize_methods(found))]


def several(found: Groups, *names: str) -> bool:
    """Whether all of these have more than one seed."""
    return all(len(found.get(name, ())) > 1 for name in names)


def compared(found: Groups, method: str, other: str) -> tuple[str, float, float]:
    """ "beats", "loses to" or "is level with"; the difference of the means, and the spread of both over seeds that it
    is set beside."""
    one, two = (robust(found[name]) for name in (method, other))
    spread = sum(statistics.variance(values) for values in (one, two)) ** 0.5
    gap = statistics.mean(one) - statistics.mean(two)
    return "is level with" if abs(gap) <= spread else "beats" if gap > 0 else "loses to", gap, spread


def verdict(found: Groups, method: str, other: str) -> str:
    """`compared` in words, with costs."""
    word, gap, spread = compared(found, method, other)
    costs = [found[name][0].relative_cost for name in (method, other)]
    return f"{word} {other} ({gap:+.1f} points, spread {spread:.1f}; cost {costs[0]:.2f} against {costs[1]:.2f})"


def paired(found: Groups, pairs: Pairs) -> tuple[float, float, int]:
    """Mean difference in robust accuracy over all pairs and common seeds, its standard error, and their number."""
    gaps = []
    for pair in pairs:
        one, two = (dict(zip(_seeds(found[name]), robust(found[name]), strict=True)) for name in pair)
        gaps += [one[seed] - two[seed] for seed in one.keys() & two.keys()]
    return statistics.fmean(gaps), statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0, len(gaps)


def _seeds(records: Sequence[RunRecord]) -> list[int]:
    return [record.config["seed"] for record in records]


def answers(found: Groups, questions: Mapping[str, Pairs]) -> str:
    """A paragraph a question, whose pairs are methods with what is asked about, and without: all pairs together, then
    pair by pair."""
    lines = []
    for question, pairs in questions.items():
        known = [pair for pair in pairs if several(found, *pair)]
        if not known:
            continue
        gap, error, count = paired(found, known)
        word = "helps" if gap > 0 else "hurts"
        word = word if beyond_chance(gap, error, count) else "makes no difference beyond chance"
        told = f"{gap:+.2f} ± {error:.2f} points, mean and standard error of {count} runs beside runs of the same seed"
        lines += [f"**{question}**: {word} ({told}).", ""]
        lines += [f"- {one} {verdict(found, one, two)}." for one, two in known]
        lines.append("")
    return "\n".join(lines)


def beyond_chance(mean: float, error: float, count: int) -> bool:
    """Two-sided t-test of a mean of paired differences, 5 %."""
    return bool(abs(mean) > scipy.stats.t.ppf(0.975, count - 1) * error)


def between(page: str, name: str, text: str) -> str:
    """`page` with `text` between the marks of that name. Raises ValueError where they do not stand there, once."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = page.split(start)
    _, after = rest.split(end)
    return f"{before}{start}\n{text}\n{end}{after}"
