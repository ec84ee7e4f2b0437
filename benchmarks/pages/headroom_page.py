"""Does headroom predict gains? Every selector of the studies against the random choice of the same compute."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import Groups, Pairs, several
from scipy.stats import spearmanr
from selection_page import BUDGETS, LOW, OLDEST, POOL_SHARES, POOL_SOLVERS, REATTACK

from advcore.reporting.record import RunRecord
from advcore.reporting.statistics import estimate_mean
from advcore.reporting.tables import to_markdown
from advcore.reporting.verdicts import pair_runs

SELECTORS: dict[str, Pairs] = {
    "what to attack again": [*REATTACK[LOW], *REATTACK[OLDEST]],
    "coresets": [
        (f"{name} @ {b}", f"random @ {b}")
        for name in ("GradMatch", "CRAIG", "GradMatch, refreshed", "GradMatch, attacked")
        for b in BUDGETS
    ],
    "pools": [(f"{name} {b}", f"random {b}") for name in POOL_SOLVERS for b in POOL_SHARES],
}
"""A selector, and the random choice of the same compute: whose headroom should predict the gain."""


HEAD = """# Does headroom predict when selection is worth its cost?

[Headroom](../docs/glossary.md#headroom) is (E |g|)^2 / E |g|^2, where g is the gradient of one example and E the mean
over examples. It is the share of a step's second moment that remains under the best unbiased choice of examples
([method](../docs/method.md#headroom)).
If headroom is near 1, selection cannot gain anything; if it is near 0, selection can. Every selector in the studies of
[what to attack again](reattack_study.md), [free rows](free_rows.md) and [pools](pools.md) is compared with the random
choice of the same [compute](../docs/glossary.md#compute). Headroom is measured in the runs of the random choice and
averaged over epochs.
"""


@dataclass(frozen=True)
class Point:
    """A selector of a suite against the random choice of the same compute.

    headroom : of the random choice's runs, mean over epochs and runs.
    gain, half_width : in points; the 95 % interval.
    """

    kind: str
    suite: str
    method: str
    headroom: float
    gain: float
    half_width: float


def list_points(sections: Mapping[str, Groups]) -> Iterator[Point]:
    """Every selector of every suite that has runs in common with its random choice."""
    for kind, pairs in SELECTORS.items():
        for suite, found in sections.items():
            for method, control in pairs:
                headroom = _mean_headroom(found.get(control, ()))
                if headroom is not None and several(found, method, control):
                    gain = estimate_mean(pair_runs(found, [(method, control)]))
                    yield Point(kind, suite, method, headroom, gain.mean, gain.half_width)


def _mean_headroom(records: Sequence[RunRecord]) -> float | None:
    values = [entry["headroom"] for record in records for entry in record.epochs if entry.get("headroom") is not None]
    return statistics.fmean(values) if values else None


def describe(points: Sequence[Point]) -> str:
    """Whether a low headroom goes with a gain: Spearman's rank correlation over the selectors."""
    if len(points) < 5:
        return "There are not enough runs yet."
    result = spearmanr([point.headroom for point in points], [point.gain for point in points])
    sign = "predicts" if result.statistic < 0 and result.pvalue < 0.05 else "does not predict"
    return (
        f"Over {len(points)} selectors the rank correlation of headroom and gain is {result.statistic:+.2f} "
        f"(p = {result.pvalue:.3f} if the selectors were independent; those of one suite are not). "
        f"**Headroom {sign} here when selection is worth its cost.**"
    )


def draw(points: Sequence[Point], path: Path) -> None:
    """Gain over headroom, one mark per selector, with 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.6), layout="constrained")
    colours = dict(zip(SELECTORS, ("tab:blue", "tab:orange", "tab:green"), strict=True))
    markers = dict(zip(dict.fromkeys(point.suite for point in points), "osD^v", strict=False))
    for point in points:
        axes.errorbar(
            point.headroom,
            point.gain,
            yerr=point.half_width,
            color=colours[point.kind],
            marker=markers[point.suite],
            markersize=5,
            elinewidth=0.6,
            alpha=0.8,
        )
    for kind, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=kind)
    for suite, marker in markers.items():
        axes.plot([], [], marker, color="gray", label=suite)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_yscale("symlog", linthresh=5)  # linear between -5 and 5 points
    axes.set_yticks([-50, -20, -10, -5, -2, 0, 2, 5, 10], ["-50", "-20", "-10", "-5", "-2", "0", "2", "5", "10"])
    axes.set(xlabel="headroom of the random choice, mean over epochs", ylabel="gain over random, points", xlim=(0, 1))
    axes.legend(fontsize=7, loc="lower left")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def text(points: Sequence[Point]) -> str:
    """benchmarks/headroom.md."""
    rows = [
        (point.suite, point.method, f"{point.headroom:.2f}", f"{point.gain:+.2f} ± {point.half_width:.2f}")
        for point in sorted(points, key=lambda point: point.headroom)
    ]
    header = ("suite", "selector", "headroom", "gain over the random choice, points")
    lines = [HEAD, describe(points), "", "![Gain over headroom](headroom.png)", ""]
    return "\n".join([*lines, to_markdown(header, rows), ""])
