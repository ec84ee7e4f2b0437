"""What README shows of the records: its picture, a sentence on half the cost, and its table of eight rows."""

import statistics
from pathlib import Path

from figures import DOCS, Groups, cost, gap, robust, unit_of

from advcore.reporting import compare, front, verdicts
from advcore.reporting.spent import format_seconds
from advcore.reporting.statistics import Comparison
from advcore.reporting.tables import format_mean, to_markdown

ROWS = {
    "full": "PGD-7 on all data",
    "one step, remembered, 40 epochs @ 0.5": "one remembered step, twice the epochs",
    "PGD-3 @ 0.5": "PGD-3",
    "GradMatch @ 0.5": "GradMatch coreset",
    "CRAIG @ 0.5": "CRAIG coreset",
    "random @ 0.5": "random subsets",
    "shortened @ 0.5": "half the epochs",
    "one step, remembered, 12 epochs @ 0.15": "one remembered step, 12 epochs",
}
"""Methods of the suite main-cifar10 to what README calls them."""
IN_TEXT = {
    "one step, remembered, 40 epochs @ 0.5": "one remembered attack step on all data",
    "GradMatch @ 0.5": "a GradMatch coreset",
    "random @ 0.5": "random subsets",
}
HALF = list(ROWS)[1:-1]
TEXT = {"light": "#24292f", "dark": "#d0d7de"}
PICTURES = {"light": DOCS / "pareto-light.svg", "dark": DOCS / "pareto-dark.svg"}
FAMILIES = {
    "cheaper attack, all data": "#2a78d6",
    "cheaper attack, remembered": "#1baf7a",
    "chosen coreset": "#eb6834",
    "random subsets": "#898781",
    "fewer epochs": "#8f5fd6",
    "full training": "#d63a62",
}


def describe_half(found: Groups) -> str:
    """What half of the full training's cost gains or loses in robust accuracy, with intervals."""
    tested = verdicts.compare_pairs(found, [(name, "full") for name in HALF])
    parts = [f"{_format_gap(found, name)} with {words}" for name, words in IN_TEXT.items()]
    full, seeds = statistics.fmean(robust(found["full"])), len(found["full"])
    return (
        f"On 4,000 CIFAR-10 images, PGD-7 training reaches {full:.1f} % robust accuracy under PGD-50. At half its\n"
        f"cost, accuracy changes by {', '.join(parts[:-1])},\n"
        f"and {parts[-1]} (points with 95 % intervals, {seeds} seeds).\n"
        f"{_describe_chance(tested)}."
    )


def _format_gap(found: Groups, name: str) -> str:
    estimate = gap(found, name, "full")
    return f"**{estimate.mean:+.1f} ± {estimate.half_width:.1f}**"


def _describe_chance(tested: dict[tuple[str, str], Comparison]) -> str:
    beyond = [ROWS[pair[0]] for pair, comparison in tested.items() if comparison.verdict != "level"]
    if not beyond:
        return f"None of {len(tested)} differences from full training is beyond chance once corrected for their number"
    return f"Corrected for {len(tested)} comparisons, only the difference with {', '.join(beyond)} is beyond chance"


def table(found: Groups, strong: Groups) -> str:
    """Eight rows: accuracies, cost, seconds. strong : the methods evaluated by AutoAttack."""
    title = unit_of(found).title
    header = ("training", "clean, %", "PGD-50, %", f"AutoAttack, % ({_count(strong)} images)", title, "seconds")
    return to_markdown(header, [_list_cells(found, strong, name) for name in ROWS])


def _count(strong: Groups) -> int:
    (n,) = {record.final["last"]["attacks"][0]["n"] for records in strong.values() for record in records}
    return n


def _list_cells(found: Groups, strong: Groups, name: str) -> tuple[str, ...]:
    records = found[name]
    clean = format_mean([100 * record.final["last"]["clean"]["accuracy"] for record in records])
    autoattack = "–"
    if name in strong:
        autoattack = f"{100 * strong[name][0].final['last']['attacks'][0]['accuracy']:.1f}"
    return (
        ROWS[name],
        clean,
        format_mean(robust(records)),
        autoattack,
        f"{cost(found, name):.2f}",
        format_seconds(records),
    )


def find_family(name: str) -> str:
    """Return the kind of saving of a method of main-cifar10, one of `FAMILIES`."""
    kinds = {
        "full training": name == "full",
        "fewer epochs": name.startswith("shortened"),
        "cheaper attack, remembered": "remembered" in name and not name.startswith(("GradMatch", "random")),
        "random subsets": name.startswith("random"),
        "chosen coreset": name.startswith(("GradMatch", "CRAIG", "EasyCore")),
    }
    return next((kind for kind, holds in kinds.items() if holds), "cheaper attack, all data")


def draw(found: Groups, colour: str, path: Path) -> None:
    """Robust accuracy over relative cost, with the front, in one colour of text on no background."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "advcore", "svg.fonttype": "path"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.6, 4.0), layout="constrained")
    methods = compare.summarize_methods(found)
    for method in methods:
        family = find_family(method.name)
        axes.errorbar(
            method.cost,
            method.accuracy,
            yerr=method.spread,
            color=FAMILIES[family],
            marker="*" if family == "cheaper attack, remembered" else "o",
            markersize=11 if family == "cheaper attack, remembered" else 6,
            elinewidth=0.8,
            zorder=3,
        )
    best = front.find_front(methods)
    axes.step(
        [m.cost for m in best], [m.accuracy for m in best], where="post", color=colour, linewidth=0.9, linestyle="--"
    )
    for family, shade in FAMILIES.items():
        axes.plot([], [], "*" if family == "cheaper attack, remembered" else "o", color=shade, label=family)
    axes.plot([], [], "--", color=colour, label="Pareto front")
    axes.set(xscale="log", xlabel=f"{unit_of(found).title}, logarithmic", ylabel="robust accuracy, % (PGD-50)")
    ticks = [0.15, 0.25, 0.3, 0.5, 1.0]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.15, color=colour)
    axes.legend(fontsize=9, loc="lower right", frameon=False, labelcolor=colour)
    _recolour(axes, colour)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def _recolour(axes, colour: str) -> None:
    """Write and frame a plot in one colour."""
    axes.tick_params(colors=colour)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(colour)
    for name, spine in axes.spines.items():
        spine.set_color(colour)
        spine.set_visible(name in ("left", "bottom"))


def draw_all(found: Groups) -> None:
    """Write the picture for light and for dark pages."""
    for page, path in PICTURES.items():
        draw(found, TEXT[page], path)
