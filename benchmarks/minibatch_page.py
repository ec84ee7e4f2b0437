"""The page of the minibatch study: tables, and in plain words which rules beat what costs the same."""

import statistics
from collections.abc import Mapping, Sequence

from advcore.reporting.record import RunRecord
from advcore.reporting.tables import comparison, flagged, markdown

Groups = Mapping[str, Sequence[RunRecord]]

BESIDE = {
    "margin": ["random", "shortened", "fewer steps"],
    "gradient matching": ["random", "shortened", "fewer steps"],
    "loss-ranked": ["full"],
    "coreset": ["random coreset", "shortened to 6"],
    "coreset x margin": ["random coreset x random", "shortened"],
}
"""Each rule, and what stands beside it: random at the same cost first."""


def robust(records: Sequence[RunRecord]) -> list[float]:
    """Robust accuracies of `last`, in percent, one a seed."""
    return [100 * record.final["last"]["attacks"][0]["accuracy"] for record in records]


def verdict(found: Groups, rule: str, other: str) -> str:
    """ "beats", "loses to" or "is level with", the difference of the means set beside the spread of both over seeds."""
    (one, two), spread = (robust(found[name]) for name in (rule, other)), 0.0
    spread = sum(statistics.variance(values) for values in (one, two)) ** 0.5
    gap = statistics.mean(one) - statistics.mean(two)
    word = "is level with" if abs(gap) <= spread else "beats" if gap > 0 else "loses to"
    costs = [found[name][0].relative_cost for name in (rule, other)]
    return f"{word} {other} ({gap:+.1f} points, spread {spread:.1f}; cost {costs[0]:.2f} against {costs[1]:.2f})"


def section(title: str, found: Groups) -> str:
    """One data set: its table, and a sentence a rule."""
    first = next(iter(found.values()))[0]
    n, device = first.final["last"]["clean"]["n"], first.environment["device"]
    lines = [
        f"## {title}",
        "",
        f"Mean ± sample deviation over seeds, {n} test images, checkpoint `last`, device {device}.",
    ]
    lines += ["", markdown(*comparison(found, "last"))]
    lines += [f"\nFlags: {told}." for told in ["; ".join(flagged(found, "last"))] if told]
    lines += ["", "Beyond the spread (the root of both variances over seeds)?", ""]
    for rule, others in BESIDE.items():
        names = [name for other in others for name in found if name == other or name.startswith(f"{other} (")]
        lines.append(f"- {rule} " + "; ".join(verdict(found, rule, name) for name in names) + ".")
    return "\n".join(lines)


def page(sections: Mapping[str, Groups], strong: Groups) -> str:
    """The whole page; `strong`: the runs before AutoAttack."""
    head = [
        "# Saving inside the minibatch",
        "",
        "From the committed records of the suites `minibatch-mnist`, `minibatch-cifar10` and `minibatch-strong`",
        "(`python benchmarks/suite.py NAME`). 4,000 images (10 % for validation), 10 epochs of PGD-7 training, small",
        "CNN: a small study, whose models are far from converged. Costs are relative to `full`.",
        "",
    ]
    tail = ["## AutoAttack, 200 images, seed 0", "", markdown(*comparison(strong, "last")), ""] if strong else []
    return "\n".join([*head, *(f"{section(title, found)}\n" for title, found in sections.items()), *tail])
