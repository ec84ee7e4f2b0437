"""docs/evidence.md: why random is hard to beat, from the records of suite `why` and measure/staleness.py."""

import statistics
from collections.abc import Sequence

from figures import Groups, Pairs, beyond_chance, cost, paired, robust, several

from advcore.reporting.record import RunRecord
from advcore.reporting.tables import NOTHING, compare_methods, format_mean, list_flags, to_markdown

BASE, CHANCE = "GradMatch", "random"

FACTORS = {
    "partition": ["GradMatch, whole", "GradMatch, whole, normalise none", "GradMatch, per batch"],
    "rows": ["GradMatch, bias rows"],
    "ridge (0.02)": ["GradMatch, ridge 0", "GradMatch, ridge 0.5"],
    "weights, as the trainer scales them": [
        "GradMatch, normalise batch",
        "GradMatch, normalise none",
        "GradMatch, weights dropped",
    ],
    "period (4 epochs)": ["GradMatch, every epoch", "GradMatch, once"],
    "warm start (0.6)": ["GradMatch, warm start 0.3", "GradMatch, warm start 0.8"],
    "attack of the selection (one step)": ["GradMatch, selected by PGD-7"],
    "solver": ["CRAIG", "CRAIG, bias rows", "CRAIG, weights dropped", "EasyCore"],
}
"""One factor at a time, beside the base; in brackets, what the base has."""
OF_CHANCE = ["random, one subset", "random, per batch", "random, every epoch", "random, once"]
OF_CHANCE += ["random, warm start 0.3", "random, warm start 0.8", "random of GradMatch's cost"]
BUDGETS = ("0.02", "0.05", "0.1", "0.2")
FAULTS = {
    "duplicates": "three quarters of the examples are near copies of the others",
    "long tail": "the first class has fifty times the examples of the last",
    "noise": "three of ten labels are wrong",
}


def gap(found: Groups, one: str, two: str) -> str:
    """Difference in robust accuracy over common seeds: mean and standard error, starred where that is beyond chance."""
    mean, error, count = paired(found, [(one, two)])
    if count < 2:
        return f"{mean:+.1f}"
    return f"{mean:+.1f} ± {error:.1f}{'*' if beyond_chance(mean, error, count) else ''}"


def _facts(records: Sequence[RunRecord], name: str) -> str:
    """Mean over all selections of a fact of their quality."""
    values = [one[name] for record in records for one in record.selections if one.get(name) is not None]
    return f"{statistics.fmean(values):.3f}" if values else NOTHING


def _row(found: Groups, name: str, beside: Sequence[str]) -> list[str]:
    records = found[name]
    return [
        name,
        str(len(records)),
        format_mean(robust(records)),
        *(gap(found, name, other) if other != name else NOTHING for other in beside),
        f"{cost(records):.2f}",
        _facts(records, "gradient_error_trained"),
        _facts(records, "effective_sample_size"),
    ]


def _table(found: Groups, names: Sequence[str], beside: Sequence[str]) -> str:
    head = ["method", "seeds", "robust, %", *(f"beside {other}" for other in beside), "relative cost"]
    head += ["gradient error, as trained", "effective sample size"]
    return to_markdown(head, [_row(found, name, beside) for name in names if name in found])


def factors(found: Groups) -> str:
    names = [BASE, *(name for group in FACTORS.values() for name in group)]
    told = "; ".join(f"{factor}" for factor in FACTORS)
    lines = [f"Factors: {told}. Base: {BASE}.", "", _table(found, names, [BASE, CHANCE]), ""]
    lines += ["Random subsets, one factor at a time:", "", _table(found, [CHANCE, *OF_CHANCE], [CHANCE]), ""]
    return "\n".join(lines)


def pooled(found: Groups, pairs: Pairs) -> str:
    """All pairs and seeds together, in words."""
    known = [pair for pair in pairs if several(found, *pair)]
    if not known:
        return "not measured"
    mean, error, count = paired(found, known)
    word = "better" if mean > 0 else "worse"
    word = word if beyond_chance(mean, error, count) else "no difference beyond chance"
    return f"{word} ({mean:+.2f} ± {error:.2f} points, {count} pairs of runs of one seed)"


def budgets(found: Groups) -> str:
    names = [f"{solver} {budget}" for budget in BUDGETS for solver in ("random", "GradMatch", "CRAIG")]
    rows = [
        _row(found, name, []) + [gap(found, name, f"random {name.rsplit(' ', 1)[1]}") if name[0] != "r" else NOTHING]
        for name in names
        if name in found
    ]
    head = ["method", "seeds", "robust, %", "relative cost", "gradient error, as trained", "effective sample size"]
    lines = [to_markdown([*head, "beside random, same budget"], rows), ""]
    rows = [_row(found, f"shortened to {n}", []) for n in (1, 2, 4) if f"shortened to {n}" in found]
    lines += ["Full data for fewer epochs:", "", to_markdown(head, rows), ""] if rows else []
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

Generated by `make pages` from the committed records of the suites `why` (benchmarks/suites/why.yaml) and of
benchmarks/measure/staleness.py; [methods at equal cost](../benchmarks/main.md), the study of [all
savings](../benchmarks/savings.md) and that of [minibatch rules](../benchmarks/minibatch.md) stand beside it.

4,000 CIFAR-10 images (JPEG copies; 10 % for validation), small CNN, one attack step of 10/255 in the ball of 8/255, 20
epochs or what the method makes of them; robust accuracy against PGD-20 on {n} test images, checkpoint `last`, mean and
sample deviation over seeds. Costs are relative to 20 epochs of PGD-7. A coreset holds 30 % of the data, is chosen per
class after 4 full epochs by the training attack, and again 4 epochs later. Differences are over runs of the same seed,
with their standard error; a star: beyond chance (t-test, 5 %), which with three seeds takes a large or a steady
difference. Among so many, one in twenty stars is chance.
"""


SAYS = """- **A selection does what it promises.** The weighted gradient of GradMatch's coreset is many times nearer to
  that of all data than a random subset's. The first epoch on it costs a part of that lead; what is left lasts
  for all the epochs that follow, without another selection.
- **That is not what limits training.** Dropping the weights, a full attack for the selection, a selection in
  every epoch: the error of the summed gradient changes many times over, the accuracy by nothing beyond chance
  (a larger ridge, which evens the weights out, may bring a few tenths). A step sees a batch of 64, whose own
  gradient is off by more than its length: beside that noise, an error of a few hundredths in what the batches
  come from has nothing to show itself in.
- **What moves accuracy is which examples there are, and how often the model sees new ones.** One random subset
  for the whole run, only what is easy (EasyCore), what the biases' gradients alone can tell apart, classes that
  lose their share (`whole`): all of these cost. More passes on more data help.
- **Rescaled weights can be a learning rate in disguise.** With `partition: whole`, GradMatch's weights sum to
  well below N; rescaled to mean 1 they make steps more than twice as long, which costs more than two points.
  `training.normalise: none` keeps their scale, and a run now says so where it matters. Per class, the default,
  the sum is N but for a few percent.
- **A selection's own cost comes first.** At the same size a coreset is level with a random subset or better; a
  random subset of the same cost is larger, and makes up for it.
- **Trained with single steps that are remembered, a coreset can be ahead of random at equal cost**: at three
  twentieths of full training GradMatch's is, by some three tenths of a point, and again on [six seeds that were not
  looked at before](../benchmarks/main.md). All data for as many passes are level with it.
- **Near duplicates are where coresets are ahead of random subsets of their size**; long tails and wrong labels
  are not, here. CRAIG's medoids are harder examples than the rest, on which the loss is higher throughout.
"""


def text(found: Groups, facts: dict | None) -> str:
    """The whole page."""
    n = next(iter(found.values()))[0].final["last"]["clean"]["n"]
    pairs = [("GradMatch", CHANCE), ("CRAIG", CHANCE)]
    pairs += [(f"{s} {b}", f"random {b}") for b in BUDGETS for s in ("GradMatch", "CRAIG")]
    lines = [HEAD.format(n=f"{n:,}"), "## What it says", "", SAYS, "## At once", ""]
    lines += [f"- Coresets beside random subsets of the same size, all budgets: {pooled(found, pairs)}."]
    lines += [f"- GradMatch beside a random subset of the same cost: {pooled(found, [(BASE, OF_CHANCE[-1])])}."]
    lines += [
        f"- All data for as many passes, beside random of that cost: {pooled(found, [('shortened', OF_CHANCE[-1])])}."
    ]
    lines += [
        f"- {fault.capitalize()}, coresets beside random subsets of their size: {pooled(found, _of(fault))}."
        for fault in FAULTS
    ]
    lines += [f"- Duplicates, coresets beside random subsets of their cost: {pooled(found, _OF_THEIR_COST)}."]
    lines += [
        "",
        _table(found, ["all data", "shortened", CHANCE, OF_CHANCE[-1], BASE, "CRAIG", "EasyCore"], [CHANCE]),
        "",
    ]
    lines += ["## One factor at a time", "", factors(found), "## Small budgets", "", budgets(found)]
    lines += ["## Where a selection should pay", "", faults(found)]
    if facts:
        lines += ["## How long a coreset stands for the data", "", STALE, "", staleness_table(facts), ""]
    flags = list_flags(found, "last")
    lines += [f"Flags: {'; '.join(flags)}.", ""] if flags else []
    lines += ["## All rows", "", to_markdown(*compare_methods(found, "last")), ""]
    return "\n".join(lines)


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
STALE = """One coreset of 30 %, chosen after 4 epochs and trained on for 8; all examples attacked anew after each epoch.
Gradient errors are of the summed gradient, relative; a batch has 64 examples."""


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
    head = ["epochs since", *(f"{name} gradient error" for name in errors)]
    head += [f"loss outside less inside, {name}" for name in ("GradMatch", "CRAIG", "random")]
    return to_markdown(head, rows)
