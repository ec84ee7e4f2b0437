"""The page on training that has converged: the anchors, and curves of robust accuracy over compute."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import Groups, cost, cost_notes, robust, table

from advcore.reporting import compare
from advcore.reporting.record import RunRecord
from advcore.reporting.tables import format_mean, name_attack, to_markdown
from advcore.reporting.verdicts import describe_varied

FULL, TWICE = "full", "full, twice the epochs"
MOST_AT_LAST, MOST_AT_BEST = 1.0, 0.5
"""Points of robust accuracy on held-out images that twice the epochs may add if full training has converged."""
LOSS_OF_CHANCE = 2.303
"""The cross-entropy of ten equally likely classes."""

HEAD = """# Training that has converged

On the other pages, small networks are trained for few epochs, and accuracy depends mainly on the number of updates.
Here, full training continues until it has converged. Every method is run at a quarter, a half and all of the
[compute](../docs/glossary.md#compute) of full training. This page is made from the committed
[records](../docs/glossary.md#record) of the suites `anchor-*` and `curves-*`; `advcore bench
benchmarks/suites/NAME.yaml` runs such a suite. The [schedule](schedule.md) lists their hours.
"""
ANCHORS = """## Full training on all images

*Held-out* is robust accuracy under the training attack, on images that are not trained on. Full training has converged
if a run of twice the epochs gains little: less than {last} point at the last epoch, and less than {best} at the best
epoch. The shape of the schedule is the same. *Loss* is the loss of the attacked training images in the last epoch; a
network that guesses has {chance}.
"""
CURVES = """## Robust accuracy over compute

Each method trains for as many epochs as fit in the stated share of full training's compute. *Last - best* compares the
run with the largest compute at two epochs: robust accuracy at the last epoch minus robust accuracy at the epoch that is
best on held-out images. Below 0, the run overfitted. Methods in bold are on the Pareto front of compute and robust
accuracy.
"""


@dataclass(frozen=True)
class HeldOut:
    """Robust accuracy of a run on held-out images, in percent, at its last and at its best epoch."""

    last: float
    best: float


def read_held_out(record: RunRecord) -> HeldOut:
    """Return a run's robust accuracy on held-out images."""
    curve = [100 * entry["robust"] for entry in record.epochs if entry.get("robust") is not None]
    return HeldOut(curve[-1], max(curve))


def has_converged(full: HeldOut, twice: HeldOut) -> bool:
    """Return whether twice the epochs add so little that full training has converged."""
    return twice.last - full.last < MOST_AT_LAST and twice.best - full.best < MOST_AT_BEST


def judge_anchor(found: Groups) -> str:
    """Say whether full training has converged, by its held-out curve."""
    if not {FULL, TWICE} <= set(found):
        return "One of the two runs is missing so far."
    full, twice = (read_held_out(found[name][0]) for name in (FULL, TWICE))
    changes = (
        f"{twice.last - full.last:+.1f} points at the last epoch and {twice.best - full.best:+.1f} at the best one"
    )
    verdict = "has converged" if has_converged(full, twice) else "has not converged"
    return f"Twice the epochs change held-out robust accuracy by {changes}: **full training {verdict}**."


def tabulate_anchor(found: Groups) -> str:
    """Return a table of the anchor's runs."""
    rows = []
    for name, records in found.items():
        record = records[0]
        held_out, final = read_held_out(record), record.final["last"]
        attacks = [f"{100 * attack['accuracy']:.1f}" for attack in final["attacks"]]
        cells = (f"{held_out.last:.1f}", f"{held_out.best:.1f}", f"{100 * final['clean']['accuracy']:.1f}", *attacks)
        rows.append((name, str(len(record.epochs)), f"{record.epochs[-1]['loss']:.2f}", *cells))
    attacks = next(iter(found.values()))[0].final["last"]["attacks"]
    names = [f"{name_attack(attack)}, % ({attack['n']:,} images)" for attack in attacks]
    header = ("training", "epochs", "loss", "held-out, last, %", "held-out, best, %", "clean, %", *names)
    return to_markdown(header, rows)


def split_name(method: str) -> tuple[str, str | None]:
    """Split a method's name into what it does and at which share of the compute: "PGD-2 @ 0.5"."""
    name, at, share = method.rpartition(" @ ")
    return (name, share) if at else (method, None)


def list_curves(found: Groups) -> dict[str, dict[str, Sequence[RunRecord]]]:
    """Return the records of each method by its share of the compute, 1 for the reference; scoring runs are left out."""
    curves: dict[str, dict[str, Sequence[RunRecord]]] = {}
    for method, records in found.items():
        name, share = split_name(method)
        if share is None and name != FULL:
            continue
        name = FULL if name == "shortened" else name
        curves.setdefault(name, {})[share or "1"] = records
    return curves


def find_front(found: Groups) -> set[str]:
    """Return the methods on the Pareto front, by their full names."""
    of_curves = {name: records for name, records in found.items() if split_name(name)[1] or name == FULL}
    return {method.name for method in compare.front.find_front(compare.summarize_methods(of_curves))}


def tabulate_curves(found: Groups) -> str:
    """Return a table of robust accuracies, one row per method and one column per share of the compute."""
    curves, front = list_curves(found), find_front(found)
    shares = sorted({share for curve in curves.values() for share in curve}, key=float)
    rows = []
    for name, curve in curves.items():
        cells = [_format_cell(curve.get(share), _compose_name(name, share) in front) for share in shares]
        largest = curve[max(curve, key=float)]
        rows.append((name, *cells, _format_overfitting(largest)))
    return to_markdown(("method", *(f"robust, %, at {share}" for share in shares), "last - best"), rows)


def _compose_name(name: str, share: str) -> str:
    """Return the method's name in its suite."""
    if name == FULL:
        return FULL if share == "1" else f"shortened @ {share}"
    return f"{name} @ {share}"


def _format_cell(records: Sequence[RunRecord] | None, on_front: bool) -> str:
    if not records:
        return "–"
    values = robust(records)
    if not values:
        return "collapsed"
    text = f"**{format_mean(values)}**" if on_front else format_mean(values)
    collapsed = len(records) - len(values)
    return f"{text} ({collapsed} collapsed)" if collapsed else text


def _format_overfitting(records: Sequence[RunRecord]) -> str:
    differences = [compare.robust_accuracy(record) - compare.robust_accuracy(record, "best") for record in records]
    return f"{statistics.fmean(differences):+.1f}"


def draw(sections: Mapping[str, Groups], path: Path) -> None:
    """Draw robust accuracy over relative compute, one panel per suite and one line per method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(sections), figsize=(6.4 * len(sections), 5.6), layout="constrained", squeeze=False
    )
    for axes, (title, found) in zip(panels[0], sections.items(), strict=True):
        colours = pyplot.get_cmap("tab20").colors
        for i, (name, curve) in enumerate(list_curves(found).items()):
            shares = [share for share in sorted(curve, key=float) if robust(curve[share])]  # not all runs collapsed
            names = [_compose_name(name, share) for share in shares]
            accuracies = [statistics.fmean(robust(curve[share])) for share in shares]
            costs = [cost(found, method) for method in names]
            style = "-" if i < len(colours) else "--"
            axes.plot(costs, accuracies, style, marker="o", markersize=4, color=colours[i % len(colours)], label=name)
        axes.set_xscale("log")
        axes.set_xticks([0.25, 0.5, 1], ["0.25", "0.5", "1"])
        axes.minorticks_off()
        axes.set(title=title, xlabel="compute, relative to full training, logarithmic", ylabel="robust accuracy, %")
        axes.title.set_size(9)
        axes.legend(fontsize=6, ncols=2)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def text(anchors: Mapping[str, Groups], curves: Mapping[str, Groups], picture: str) -> str:
    """benchmarks/converged.md. anchors, curves : records of the suites that have any, by the suites' titles."""
    if not anchors and not curves:
        return f"{HEAD}\nThere is no record yet.\n"
    lines = [HEAD]
    if anchors:
        lines += [ANCHORS.format(last=f"{MOST_AT_LAST:g}", best=f"{MOST_AT_BEST:g}", chance=LOSS_OF_CHANCE), ""]
    for title, found in anchors.items():
        lines += [f"{title}:", "", tabulate_anchor(found), "", judge_anchor(found), ""]
    if curves:
        lines += [CURVES, f"![Robust accuracy over compute]({picture})", ""]
    for title, found in curves.items():
        lines += [f"### {title}", "", describe_varied(found), "", tabulate_curves(found), ""]
        lines += ["All columns, checkpoint `last`:", "", cost_notes(found), "", table(found), ""]
    return "\n".join(lines)
