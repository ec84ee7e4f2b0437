"""docs/evidence.md: why random is hard to beat, from the records of suite `why` and measure/staleness.py."""

import statistics
from collections.abc import Sequence

import figures
from figures import Groups, Tested, ask, cost, cost_notes, describe_unit, gap_text, list_flags, robust, table, unit_of

from advcore.reporting.record import RunRecord
from advcore.reporting.spent import SECONDS, format_seconds
from advcore.reporting.statistics import compare_all
from advcore.reporting.tables import NOTHING, format_mean, to_markdown
from advcore.reporting.verdicts import describe_varied, explain_test

BASE, CHANCE = "GradMatch", "random"

EASYCORE = "EasyCore, early scores"
FACTORS = {
    "partition": ["GradMatch, whole", "GradMatch, whole, normalise none", "GradMatch, per batch"],
    "rows": ["GradMatch, bias rows"],
    "ridge (0.02)": ["GradMatch, ridge 0", "GradMatch, ridge 0.5"],
    "weights (rescaled to mean 1)": [
        "GradMatch, normalise batch",
        "GradMatch, normalise none",
        "GradMatch, weights dropped",
    ],
    "period (4 epochs)": ["GradMatch, every epoch", "GradMatch, once"],
    "warm start (0.6)": ["GradMatch, warm start 0.3", "GradMatch, warm start 0.8"],
    "attack of the selection (one step)": ["GradMatch, selected by PGD-7"],
    "solver": ["CRAIG", "CRAIG, bias rows", "CRAIG, weights dropped", EASYCORE],
}
"""One factor at a time, varied from the base; in brackets, the base's setting."""
LABELS = """*Whole* and *per batch* are [partitions](glossary.md#partition). *Bias rows* are [gradient
rows](glossary.md#row) with the gradients of the biases only. *Normalise* is the setting `training.normalise`, and
*weights dropped* trains with equal weights. *Every epoch* selects in every epoch. *As trained* means with the weights
that training uses."""
OF_CHANCE = ["random, one subset", "random, per batch", "random, every epoch", "random, once"]
OF_CHANCE += ["random, warm start 0.3", "random, warm start 0.8", "random of GradMatch's cost"]
BUDGETS = ("0.02", "0.05", "0.1", "0.2")
FAULTS = {
    "duplicates": "three quarters of the examples are near copies of the others",
    "long tail": "the first class has fifty times the examples of the last",
    "noise": "three of ten labels are wrong",
}


def _facts(records: Sequence[RunRecord], name: str) -> str:
    """The mean of a measure of quality over all selections."""
    values = [one[name] for record in records for one in record.selections if one.get(name) is not None]
    return f"{statistics.fmean(values):.3f}" if values else NOTHING


def _row(found: Groups, name: str, others: Sequence[str]) -> list[str]:
    records = found[name]
    return [
        name,
        str(len(records)),
        format_mean(robust(records)),
        *(gap_text(found, name, other) if other != name else NOTHING for other in others),
        f"{cost(found, name):.2f}",
        format_seconds(records),
        _facts(records, "gradient_error_trained"),
        _facts(records, "effective_sample_size"),
    ]


def _table(found: Groups, names: Sequence[str], others: Sequence[str]) -> str:
    head = ["method", "seeds", "robust, %", *(f"difference from {other}, points" for other in others)]
    head += [unit_of(found).title, SECONDS, "gradient error, as trained", "effective sample size"]
    return to_markdown(head, [_row(found, name, others) for name in names if name in found])


def factors(found: Groups) -> str:
    names = [BASE, *(name for group in FACTORS.values() for name in group)]
    told = ", ".join(f"{factor}" for factor in FACTORS)
    about = f"The base is {BASE}. One of these factors is changed at a time; its value in the base is in parentheses: "
    lines = [f"{about}{told}.", "", LABELS, "", _table(found, names, [BASE, CHANCE]), ""]
    lines += ["Random subsets, one factor at a time:", "", _table(found, [CHANCE, *OF_CHANCE], [CHANCE]), ""]
    return "\n".join(lines)


def budgets(found: Groups) -> str:
    names = [f"{solver} {budget}" for budget in BUDGETS for solver in ("random", "GradMatch", "CRAIG")]
    rows = [
        _row(found, name, [])
        + [gap_text(found, name, f"random {name.rsplit(' ', 1)[1]}") if name[0] != "r" else NOTHING]
        for name in names
        if name in found
    ]
    head = [
        "method",
        "seeds",
        "robust, %",
        unit_of(found).title,
        SECONDS,
        "gradient error, as trained",
        "effective sample size",
    ]
    lines = [to_markdown([*head, "difference from random of the same budget, points"], rows), ""]
    rows = [_row(found, f"shortened to {n}", []) for n in (1, 2, 4) if f"shortened to {n}" in found]
    fewer = "All data for 1, 2 or 4 epochs ([shortened](glossary.md#shortened)):"
    lines += [fewer, "", to_markdown(head, rows), ""] if rows else []
    return "\n".join(lines)


def faults(found: Groups) -> str:
    lines = []
    for fault, told in FAULTS.items():
        own = {name.removeprefix(f"{fault}, "): r for name, r in found.items() if name.startswith(f"{fault}, ")}
        if own:
            at = {small: [n for n in own if n.endswith(" 0.1") == small] for small in (False, True)}
            lines += [f"### {fault.capitalize()}: {told}", "", _table(own, at[False], ["random"]), ""]
            lines += [_table(own, at[True], ["random 0.1"]), ""]
    return "\n".join(lines)


HEAD = """# What a selection is worth, and why random is hard to beat

`make pages` makes this page from the committed [records](glossary.md#record) of the suite `why`
(benchmarks/suites/why.yaml) and of benchmarks/measure/staleness.py. See also [methods at equal
cost](../benchmarks/main.md), the study of [all savings](../benchmarks/savings.md) and the study of [minibatch
rules](../benchmarks/minibatch.md).

A small CNN is trained on 4,000 CIFAR-10 images (JPEG copies; 10 % for validation). Training takes one attack step of
10/255 in the ball of 8/255, for 20 epochs unless the method's name says otherwise. Robust accuracy is for PGD-20 on {n}
test images and checkpoint `last`. Tables show its mean ± sample standard deviation over seeds. Costs are relative to 20
epochs of PGD-7. A coreset holds 30 % of the data. It is chosen per class with the training attack after 4 epochs on all
data, and again 4 epochs later.

Differences are between runs of the same seed, each with its 95 % interval. The section "Tests" lists the tested
differences. None is beyond chance, so every statement about accuracies here is about the means of these runs.
"""


SAYS = """- **A selection does what it promises.** GradMatch's coreset comes many times closer to the gradient of all
  data than a random subset does. Part of this lead is lost in the first epoch on the coreset. The rest lasts for all
  following epochs, without another selection.
- **The gradient error is not what limits training.** Three changes were tried: to drop the weights, to select with a
  full attack, and to select in every epoch. The error of the summed gradient changes many times over, but the mean
  accuracy changes by less than half a point. A training step uses a batch of 64, whose gradient error is larger than
  the gradient itself. Compared with this noise, an error of a few hundredths in the coreset does not matter.
- **The means depend most on which examples there are, and on how often the model sees new ones.** Four choices are each
  behind their comparison by half a point to four points: one random subset for the whole run, only easy examples
  (EasyCore with early scores), only the gradients of the biases, and classes that lose their share (`whole`).
- **Rescaling weights can act like a higher learning rate.** With `partition: whole`, the sum of GradMatch's weights is
  well below N, the number of examples. Rescaling them to mean 1 makes steps more than twice as long, and more than two
  points are lost. `training.normalise: none` keeps their scale, and a run now reports when this matters. Per class, the
  default, the sum is N to within a few percent.
- **A selection also costs something.** A random subset of the same total cost as a coreset is larger, and its mean is a
  little higher.
- **When training uses single remembered steps, a coreset is not reliably ahead of random at equal cost.** At 15 % of
  full training's cost, GradMatch's coreset was ahead on three seeds. This was repeated on [six seeds that had not been
  looked at before](../benchmarks/main.md). There, the coreset is ahead by three tenths of a point at the last
  checkpoint, which may be chance. At the best checkpoint it is behind by four tenths, which is beyond chance.
- **On near duplicates, long tails and wrong labels, coresets are not ahead of random subsets beyond chance.** CRAIG's
  medoids are harder examples than the rest, and the loss on them is always higher.
"""


def _of(fault: str) -> list[tuple[str, str]]:
    return [
        (f"{fault}, {solver}{size}", f"{fault}, random{size}")
        for size in ("", " 0.1")
        for solver in ("GradMatch", "CRAIG")
    ]


_OF_THEIR_COST = [
    (f"duplicates, {solver}{size}", f"duplicates, random of their cost{size}")
    for size in ("", " 0.1")
    for solver in ("GradMatch", "CRAIG")
]
QUESTIONS = {
    "Coresets compared with random subsets of the same size, all budgets": [
        ("GradMatch", CHANCE),
        ("CRAIG", CHANCE),
        *((f"{solver} {budget}", f"random {budget}") for budget in BUDGETS for solver in ("GradMatch", "CRAIG")),
    ],
    "GradMatch compared with a random subset of the same cost": [(BASE, OF_CHANCE[-1])],
    "All data, compared with a random subset at the same number of passes": [("shortened", OF_CHANCE[-1])],
    **{f"{fault.capitalize()}, coresets compared with random subsets of their size": _of(fault) for fault in FAULTS},
    "Duplicates, coresets compared with random subsets of their cost": _OF_THEIR_COST,
}
"""Questions, and the pairs of methods that answer them."""


def test(found: Groups) -> Tested:
    """All comparisons of the page."""
    return compare_all(ask("why", found, QUESTIONS))


def text(found: Groups, facts: dict | None) -> str:
    """The whole page."""
    n = next(iter(found.values()))[0].final["last"]["clean"]["n"]
    tested = test(found)
    lines = [HEAD.format(n=f"{n:,}"), "## Findings", "", SAYS, "## Tests", ""]
    lines += [explain_test(tested.values()), describe_varied(found), ""]
    lines += [f"- {question}: {figures.verdict(result)}." for (_, question), result in tested.items()]
    first = ["all data", "shortened", CHANCE, OF_CHANCE[-1], BASE, "CRAIG", EASYCORE]
    lines += ["", f"{METHODS} {describe_unit(found, 'glossary.md')}", "", _table(found, first, [CHANCE]), ""]
    lines += ["## One factor at a time", "", factors(found), "## Small budgets", "", budgets(found)]
    lines += ["## Where a selection should help", "", FAULTY, "", faults(found)]
    if facts:
        lines += ["## How long a coreset represents the data", "", STALE, "", staleness_table(facts), ""]
    flags = list_flags(found, "last")
    lines += [f"Flags: {'; '.join(flags)}.", ""] if flags else []
    lines += ["## All methods", "", cost_notes(found, "all data"), "", table(found, "last", "all data"), ""]
    return "\n".join(lines)


METHODS = """*Shortened* trains on all data for 7 epochs ([shortened](glossary.md#shortened)), and *random* on random
subsets of 30 %. *Random of GradMatch's cost* draws subsets of 38 %. *Early scores* are input-gradient norms from the 4
epochs before the first selection."""
FAULTY = """The data are changed on purpose. *Random of their cost* is a larger random subset, which costs as much as a
coreset. Coresets have a [budget](glossary.md#budget) of 30 %, in rows with *0.1* one of 10 %."""
STALE = """One coreset of 30 % is chosen after 4 epochs and used for 8 epochs of training. All examples are attacked
again after each epoch. A gradient error is the relative error of the summed gradient, over the coreset, a random
subset or a batch of 64 examples. The last columns compare the mean loss of examples outside and inside the
coreset."""


SELECTORS = ("gradmatch", "craig", "random")
"""In the order of the columns of the table below."""


def staleness_table(facts: dict) -> str:
    """Means over seeds; the rows are epochs since the selection."""
    found, rows = facts["found"], []
    for epoch in range(len(found["gradmatch"][0])):
        mean = lambda solver, name: statistics.fmean(one[epoch][name] for one in found[solver])  # noqa: B023, E731
        errors = [mean(solver, "coreset") for solver in ("gradmatch", "craig")]
        errors += [mean("gradmatch", "random subset"), mean("gradmatch", "batch")]
        gaps = [mean(solver, "loss outside") - mean(solver, "loss inside") for solver in SELECTORS]
        rows.append((str(epoch), *(f"{value:.3f}" for value in errors), *(f"{gap:+.3f}" for gap in gaps)))
    errors = ["GradMatch's", "CRAIG's", "a random subset's", "a batch's"]
    head = ["epochs since the selection", *(f"{name} gradient error" for name in errors)]
    head += [f"loss outside the coreset minus inside, {name}" for name in ("GradMatch", "CRAIG", "random")]
    return to_markdown(head, rows)
