"""Say which methods beat which: differences of records, tested together, in a table."""

from collections.abc import Collection, Sequence
from statistics import fmean

from advcore.errors import format_count
from advcore.reporting import compare, front, tables
from advcore.reporting.collapse import drop_collapsed
from advcore.reporting.costs import choose_unit
from advcore.reporting.record import RunRecord
from advcore.reporting.statistics import Comparison, Difference, compare_all

# Two methods: the one in question, and what it is compared with.
Pair = tuple[str, str]
# Costs that differ by less than this share count as equal.
_SAME_COST = 0.1
HEADER = ("method", "compared with", "pairs", "difference, points", "p", "p, corrected", "verdict")
# What the verdict of a small difference means, where a page writes it in full and where a table writes "level".
NOT_BEYOND = '"Not beyond chance" does not mean that two methods are equal.'
LEVEL = 'The verdict "level" means not beyond chance; it does not mean that two methods are equal.'


def pair_runs(groups: tables.Groups, pairs: Sequence[Pair], which: str = "last") -> list[Difference]:
    """Return the differences in robust accuracy, in points, of all runs of each pair that share seed and data split.

    Runs that collapsed have none.
    """
    differences = []
    for pair in pairs:
        first, second = (_index_by_seed(groups.get(method, ()), which) for method in pair)
        differences += [Difference(value - second[key], *key) for key, value in first.items() if key in second]
    return differences


def _index_by_seed(records: Sequence[RunRecord], which: str) -> dict[tuple[int, int], float]:
    """Return robust accuracies by seed and data split."""
    return {_read_seeds(record): compare.robust_accuracy(record, which) for record in drop_collapsed(records, which)}


def _read_seeds(record: RunRecord) -> tuple[int, int]:
    return record.config.get("seed", 0), compare.read_split(record)


def compare_pairs(groups: tables.Groups, pairs: Sequence[Pair], which: str = "last") -> dict[Pair, Comparison]:
    """Compare the methods of each pair that have runs in common, corrected for the number of pairs."""
    differences = {pair: pair_runs(groups, [pair], which) for pair in pairs}
    return compare_all({pair: values for pair, values in differences.items() if values})


def list_pairs(groups: tables.Groups, reference: str) -> list[Pair]:
    """Return what a table of methods is asked: each and the reference, chosen coresets and random subsets.

    The random subsets are those of about the same cost; of several, first those under the same attack, then the
    nearest in cost.
    """
    pairs = [(name, reference) for name in groups if name != reference and reference in groups]
    for name, records in groups.items():
        if front.classify_run(records[0].config) == "chosen coreset":
            pairs += [(name, other) for other in _find_random(groups, name)[:1]]
    return list(dict.fromkeys(pairs))


def _find_random(groups: tables.Groups, name: str) -> list[str]:
    """Return the methods of random subsets of about the cost of a method, the most similar first."""
    unit = choose_unit(tables.list_records(groups))
    cost = fmean(map(unit.compare, groups[name]))
    attack = groups[name][0].config.get("attack")
    ranks = {}
    for other, records in groups.items():
        gap = abs(fmean(map(unit.compare, records)) - cost)
        if front.classify_run(records[0].config) == "random subset" and gap <= _SAME_COST * cost:
            ranks[other] = (records[0].config.get("attack") != attack, gap)
    return sorted(ranks, key=ranks.__getitem__)


def tabulate(groups: tables.Groups, reference: str) -> tuple[list[tables.Row], str]:
    """Return rows with the columns of `HEADER`, and a note on the test; no rows where nothing can be tested."""
    tested = compare_pairs(groups, list_pairs(groups, reference))
    rows: list[tables.Row] = [
        (*pair, str(entry.estimate.count), *format_comparison(entry), entry.verdict)
        for pair, entry in tested.items()
        if entry.among
    ]
    explained = explain_test(tested.values(), LEVEL)
    return rows, " ".join([*_list_shared_counts(groups), explained, describe_varied(groups)])


def _list_shared_counts(groups: tables.Groups) -> list[str]:
    """Return a sentence where robust accuracies are over fewer images, those that all attacks saw."""
    evaluations = [record.final["last"] for record in tables.list_records(groups)]
    counts = sorted({entry["worst"]["n"] for entry in evaluations if "shared" in entry})
    if not counts:
        return []
    images = " or ".join(map(str, counts))
    return [f"Robust accuracy is over the {images} images that all attacks saw: the share that withstands them all."]


def format_comparison(comparison: Comparison) -> tuple[str, str, str]:
    """Write a difference with its 95 % interval, the p-value, and the corrected one."""
    estimate = comparison.estimate
    if not estimate.freedom:
        return f"{estimate.mean:+.2f}", tables.NOTHING, tables.NOTHING
    return f"{estimate.mean:+.2f} ± {estimate.half_width:.2f}", f"{estimate.p:.4f}", f"{comparison.corrected:.3f}"


def explain_test(tested: Collection[Comparison], small: str = NOT_BEYOND) -> str:
    """Say how the comparisons of a page are tested, and how many there are.

    small : the sentence on the verdict of a difference that may be chance, `NOT_BEYOND` or `LEVEL`.
    """
    count = max((entry.among for entry in tested), default=0)
    made = "was made. It is" if count == 1 else "were made. Each is"
    return (
        f"{format_count(count, 'comparison')} {made} a paired t-test over seeds, or over data splits if there are "
        "fewer splits than seeds. The significance level is 5 % for all comparisons together (Holm's correction). "
        f"{small} The ± of a difference is its 95 % interval, without this correction. Collapsed runs are left out."
    )


def describe_varied(groups: tables.Groups) -> str:
    """Say what the runs of a method differ in: their seeds, and their data splits if there are several."""
    pairs = {_read_seeds(record) for record in tables.list_records(groups)}
    seeds, splits = (sorted(set(values)) for values in zip(*pairs, strict=True))
    text = f"The runs have {'seed' if len(seeds) == 1 else 'seeds'} {format_numbers(seeds)}"
    if len(splits) == 1:
        return f"{text}, on data split {splits[0]}. Intervals do not cover the variation between splits."
    if len(pairs) == len(seeds) == len(splits):
        return f"{text}, each with its own data split."
    return f"{text}, on data splits {format_numbers(splits)}."


def format_numbers(numbers: Sequence[int]) -> str:
    """Write ascending whole numbers, "0 and 2"; three and more without a gap as "0-2"."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}-{numbers[-1]}"
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last
