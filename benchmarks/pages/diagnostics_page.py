"""What the scores predict: benchmarks/diagnostics.md and its picture.

Made from the record of benchmarks/measure/diagnostics.py.
"""

from figures import BENCHMARKS, RECORDS

from advcore.files import read_json
from advcore.reporting.tables import to_markdown

RECORD = RECORDS / "diagnostics.json"
PAGE = BENCHMARKS / "diagnostics.md"
PLOT = BENCHMARKS / "diagnostics.png"


def page(facts: dict) -> str:
    """The tables, from the record alone."""
    epochs, own = facts["epochs"], facts["aign"]
    thirds = [epochs[: len(epochs) // 3], epochs[len(epochs) // 3 : -(len(epochs) // 3)], epochs[-(len(epochs) // 3) :]]
    rows = [(name, *(f"{sum(one[name] for one in part) / len(part):.2f}" for part in thirds)) for name in epochs[0]]
    linked = {name: value for name, value in own.items() if name.startswith("AIGN")}
    links = [(name.replace(" less ", " minus "), f"{value:.2f}") for name, value in linked.items()]
    return "\n".join(
        [
            "# What the scores predict",
            "",
            "`python benchmarks/measure/diagnostics.py` makes one run on digits for each section. The device was "
            f"{facts['environment']['device']}. Rank correlations are Spearman's, over all training examples.",
            "",
            "## Gradient matching, from one epoch to the next",
            "",
            "The run is selective training by gradient matching. An example's score is the cosine between two",
            "last-layer gradients at clean images: the gradient of this example and the gradient of the whole set. A",
            "row *X with Y* is the rank correlation of two measures. A row *cosine of ...* compares gradients of one",
            "epoch and the next. Columns are means over the first, middle and last third of the epochs.",
            "",
            to_markdown(("measure", "first third", "middle third", "last third"), rows),
            "",
            "## AIGN, vulnerability and the boundary",
            "",
            "[AIGN](../docs/glossary.md#aign) is an example's average input-gradient norm. The network is trained by",
            f"TRADES on all data, {own['n']} examples. The distance to the boundary is the radius of the smallest linf",
            f"ball in which PGD-20 flips the prediction. Radii up to {own['largest radius']:g} were tried, and the",
            f"prediction flips for {own['reached']} examples.",
            "",
            to_markdown(("measures", "rank correlation"), links),
            "",
            "![AIGN against robust loss and distance to the boundary](diagnostics.png)",
            "",
        ]
    )


def plot(facts: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    values, robust, radius = zip(*facts["aign"]["points"], strict=True)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, other, name in (
        (left, robust, "robust loss"),
        (right, radius, "smallest radius that flips the prediction"),
    ):
        axes.scatter(values, other, s=6, alpha=0.4, linewidths=0)
        axes.set(xlabel="AIGN", ylabel=name, xscale="log")
    figure.savefig(PLOT, dpi=110)


def write() -> None:
    """Write page and picture from the committed record."""
    PAGE.write_text(page(read_json(RECORD)))
    plot(read_json(RECORD))
