"""The page of the savings: robust accuracy over relative cost, its Pareto front, and which parts matter."""

import statistics
from pathlib import Path

import figures
from figures import Groups, Tested, answers, ask, cost, cost_notes, describe_means, front, list_flags, robust, unit_of

from advcore.reporting.statistics import compare_all
from advcore.reporting.verdicts import describe_varied, explain_test

FULL = "full (PGD-7)"
QUARTER = 0.2505
"""A quarter of full training, with a margin for rounding a plan to whole epochs."""
QUESTIONS = {
    "Remembering perturbations": [
        ("one step, remembered", "FAT"),
        ("random, one step, remembered", "random, one step"),
        ("GradMatch, one step, remembered", "GradMatch, one step"),
        ("random, one step, half, remembered", "random, one step, half"),
        ("PGD-2, remembered", "PGD-2"),
        ("random, PGD-2, remembered", "random, PGD-2"),
        ("GradMatch, PGD-2, remembered", "GradMatch, PGD-2"),
    ],
    "The coreset, compared with a random subset of the same cost": [
        ("GradMatch, one step", "random, one step"),
        ("GradMatch, one step, remembered", "random, one step, remembered"),
        ("GradMatch, one step, half, remembered", "random, one step, half, remembered"),
        ("GradMatch, PGD-2", "random, PGD-2"),
        ("GradMatch, PGD-2, remembered", "random, PGD-2, remembered"),
    ],
    "A subset for more epochs, compared with all data for fewer": [
        ("random, one step", "FAT"),
        ("GradMatch, one step", "FAT"),
        ("random, one step, half", "one step, shortened"),
    ],
    "Selection with one attack step, compared with the full attack": [
        ("GradMatch 0.3, selected by FGSM", "GradMatch 0.3")
    ],
    "The margin rule, compared with random minibatches of the same cost": [
        ("margin, one step", "random minibatch, one step")
    ],
    "A random half of each batch for twice the epochs, compared with whole batches": [
        ("random minibatch, one step", "FAT")
    ],
    "A growing number of attack steps, compared with two steps": [("PGD, steps 1 to 3", "PGD-2")],
}
"""Questions, and the pairs of methods that answer them: with the part, and without it."""
FAMILIES = {
    "GradMatch": "tab:orange",
    "CRAIG": "tab:green",
    "random minibatch": "tab:purple",
    "margin": "tab:red",
    "random": "tab:gray",
    "": "tab:blue",  # all data
}


HEAD = """# Cheaper training, all savings in one picture

This page is made from the committed [records](../docs/glossary.md#record) of the suites `savings`, `savings-parts`,
`savings-long` and `savings-strong`; `advcore bench benchmarks/suites/NAME.yaml` runs such a suite. A small CNN is
trained on 4,000 CIFAR-10 images (JPEG copies; 10 % for validation) with linf 8/255. The reference, full training, is 10
epochs of PGD-7. This is a small study, and its models are far from converged. Terms are in the
[glossary](../docs/glossary.md).

Runs with a coreset first train on all data, for 60 % of the epochs that their budget allows. Then they select every 4
epochs. At a quarter of full training's cost, they run 20 epochs with one attack step or 14 with two, on the largest
coreset that this cost allows (`selection.cost`). A number after a method, such as *random 0.3*, is its
[budget](../docs/glossary.md#budget). *Half* in a name means half of this cost. *Shortened* trains on all data for
fewer epochs ([shortened](../docs/glossary.md#shortened)).

In short:

- At this size, nearly all that can be saved is the cost of the attack. Training with one attack step costs a quarter of
  full training, and its mean accuracy is within half a point of full training's.
- What a subset saves has to be spent on something. More epochs on a subset, or a better chosen subset, gain no more
  than the same [passes](../docs/glossary.md#pass) on all data.
- Remembered perturbations cost no passes. They are ahead by two tenths of a point, and by seven tenths in runs of three
  times the epochs.
- GradMatch's coresets match the gradient under the full attack many times more closely than random subsets do. This
  holds even if they are selected with one attack step. Models trained on them are not better.
- The margin rule, whose scores cost as much as half an attack step, falls behind with each seed.
- There are only two or three seeds. After the correction for the number of comparisons, none of these differences in
  accuracy is beyond chance.
"""
LASTING = {
    "One remembered step, compared with full training": [("one step, remembered", "full (PGD-7)")],
    "Remembering perturbations": [("one step, remembered", "FAT")],
    "A coreset with remembered steps, compared with all data with remembered steps": [
        ("GradMatch, one step, remembered", "one step, remembered")
    ],
    "One step, compared with full training": [("FAT", "full (PGD-7)")],
}
PARTS, LONG = "parts", "three times the epochs"


LABELLED = ("full (PGD-7)", "PGD-3", "shortened", "margin, one step", "random 0.1", "GradMatch 0.1", "GradMatch 0.5")
"""Named in the picture, in addition to the front."""


def family(method: str) -> str:
    """The first family whose name begins the method's."""
    return next(name for name in FAMILIES if method.startswith(name))


def table(found: Groups) -> str:
    """All methods, the cheapest first; those on the front in bold."""
    best = front(found)
    ordered = sorted(found, key=lambda name: cost(found, name))
    shown = {name: f"**{name}**" if name in best else name for name in ordered}
    return figures.table({shown[name]: found[name] for name in ordered}, reference=shown[FULL])


def quarter(found: Groups, full: str) -> str:
    """The best methods at a quarter of the cost, compared with full training."""
    cheap = {name: statistics.fmean(robust(records)) for name, records in found.items() if cost(found, name) <= QUARTER}
    order = sorted(cheap, key=cheap.get, reverse=True)
    reached = statistics.fmean(robust(found[full]))
    told = "; ".join(f"{name} {cheap[name]:.1f} at {cost(found, name):.2f}" for name in order[:4])
    return (
        f"Full training reaches {reached:.1f} %. The best methods at a quarter of its cost or less, each with its "
        f"robust accuracy in % and its relative cost: {told}."
    )


def test(found: Groups, lasting: Groups) -> Tested:
    """All comparisons of the page."""
    return compare_all(ask(PARTS, found, QUESTIONS) | ask(LONG, lasting, LASTING))


def text(found: Groups, lasting: Groups, strong: Groups) -> str:
    """The whole page. `lasting`: runs of three times the epochs; `strong`: the front under AutoAttack."""
    first = next(iter(found.values()))[0]
    n, device = first.final["last"]["clean"]["n"], first.environment["device"]
    tested = test(found, lasting)
    lines = [HEAD, "![Robust accuracy over relative cost](savings.png)", ""]
    lines += [
        f"{describe_means(found, str(n), device)} The checkpoint is `last`. Methods in bold are on the Pareto front."
    ]
    lines += ["", cost_notes(found, FULL), "", table(found), ""]
    lines += [f"Flags: {told}.\n" for told in ["; ".join(list_flags(found, "last"))] if told]
    collapsed = [
        f"{name}, seed {record.config['seed']}: {event['event']}"
        for groups in (found, lasting)
        for name, records in groups.items()
        for record in records
        for event in record.events
        if "catastrophic" in event["event"]
    ]
    none = "No run collapsed, as judged by PGD-10 on validation images."
    lines += [f"- {told}." for told in collapsed] or [none]
    lines += ["", quarter(found, next(iter(found))), "", "## Which parts matter", ""]
    lines += [explain_test(tested.values()), describe_varied(found), "", answers(PARTS, found, QUESTIONS, tested)]
    if lasting:
        lines += ["## Three times the epochs", "", "Costs are relative to full PGD-7 training of the same length.", ""]
        lines += [cost_notes(lasting, FULL), "", figures.table(lasting, "last", FULL), "", "Checkpoint `best`:", ""]
        lines += [figures.table(lasting, "best", FULL), ""]
        lines += [describe_varied(lasting), "", answers(LONG, lasting, LASTING, tested)]
    if strong:
        count = next(iter(strong.values()))[0].final["last"]["clean"]["n"]
        lines += [f"## The Pareto front under AutoAttack, {count} images, seed 0", ""]
        lines += [cost_notes(strong, FULL), "", figures.table(strong, "last", FULL), ""]
    return "\n".join(lines)


def draw(found: Groups, path: Path) -> None:
    """Robust accuracy over relative cost; a star where perturbations are remembered."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 5.2), layout="constrained")
    best = front(found)
    for name, records in found.items():
        values = robust(records)
        spread = statistics.stdev(values) if len(values) > 1 else 0
        axes.errorbar(
            cost(found, name),
            statistics.fmean(values),
            yerr=spread,
            color=FAMILIES[family(name)],
            marker="*" if "remembered" in name else "o",
            markersize=10 if "remembered" in name else 5,
            elinewidth=0.6,
            alpha=0.85,
        )
    for name in LABELLED:
        if name in found and name not in best:
            place = cost(found, name), statistics.fmean(robust(found[name]))
            axes.annotate(name, place, xytext=(6, -10), textcoords="offset points", fontsize=7, color="dimgray")
    places = [(cost(found, name), statistics.fmean(robust(found[name]))) for name in best]
    axes.step(*zip(*places, strict=True), where="post", color="black", linewidth=0.8, linestyle="--")
    for i, (name, place) in enumerate(zip(best, places, strict=True)):
        axes.annotate(name, place, xytext=(4, 9 + 9 * (i % 2)), textcoords="offset points", fontsize=7)
    for name, colour in FAMILIES.items():
        axes.plot([], [], "o", color=colour, label=name or "all data")
    axes.plot([], [], "*", color="black", markersize=10, label="remembered")
    axes.plot([], [], "--", color="black", label="Pareto front")
    axes.set(xscale="log", xlabel=f"{unit_of(found).title}, logarithmic", ylabel="robust accuracy, % (PGD-20)")
    axes.set_title("CIFAR-10 (JPEG copies), 4,000 images, small CNN, three seeds", fontsize=10)
    ticks = [0.1, 0.15, 0.25, 0.4, 0.6, 1.0]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
