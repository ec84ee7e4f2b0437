"""What the scores of the papers are worth, measured on digits: python benchmarks/diagnostics.py

Over a run of selective training by gradient matching: does an example's score foretell how its robust loss changes in
the next epoch, and do gradient directions last from one epoch to the next? Over a TRADES run: is AIGN tied to
vulnerability and to the distance of the decision boundary? Writes records/diagnostics.json, diagnostics.md and
diagnostics.png; needs matplotlib. About 3 minutes on 2 cores.
"""

import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from advcore.cost import CostLedger
from advcore.errors import AdvcoreError
from advcore.evaluation.evaluate import smallest_radius
from advcore.files import read_json, write_json
from advcore.gradients import GRADIENTS
from advcore.gradients.scores import score_examples
from advcore.minibatch.gradient_matching import measure_cosines
from advcore.objectives import Standard
from advcore.reporting.tables import to_markdown
from advcore.rng import Stream
from advcore.rows import FactoredRows
from advcore.runner.config import load
from advcore.runner.environment import describe_environment
from advcore.runner.prepare import prepare
from advcore.training.loop import Listener

HERE = Path(__file__).parent
RECORD, PAGE, PLOT = HERE / "records/diagnostics.json", HERE / "diagnostics.md", HERE / "diagnostics.png"
STREAM = Stream(seed=0, purpose="diagnostics")


def main() -> None:
    facts = {"environment": describe_environment(torch.device("cpu")), "epochs": directions(), "aign": aign()}
    write_json(RECORD, facts)
    PAGE.write_text(page(read_json(RECORD)))
    plot(read_json(RECORD))


def loss(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    return F.cross_entropy(z, y, reduction="none").double()


def directions() -> list[dict]:
    """Of each epoch of experiments/selective_gradient_matching.yaml, over all training examples."""
    prepared = prepare(load(HERE.parent / "experiments/selective_gradient_matching.yaml"))
    trainer, data = prepared.trainer, prepared.data
    found, before = [], {}

    def on_model(model: nn.Module) -> None:
        how = {"objective": trainer.objective, "attack": trainer.attack, "stream": STREAM, "ledger": CostLedger()}
        rows = (
            GRADIENTS["last_layer"].measure(model, data.train, **{**how, "objective": Standard(), "attack": None}).rows
        )
        robust = score_examples(loss, model, data.train, attacked=True, **how).rows.matrix[:, 0]
        now = {"rows": rows, "scores": measure_cosines(rows), "robust": robust}
        if before:
            norms = (rows.squared_norms() * before["rows"].squared_norms()).sqrt().clamp_min(1e-300)
            totals = [one.total().flatten() for one in (rows, before["rows"])]
            change = robust - before["robust"]
            found.append(
                {
                    "score with change of robust loss": _rank(before["scores"], change),
                    "robust loss with its change": _rank(before["robust"], change),
                    "score with the next score": _rank(before["scores"], now["scores"]),
                    "cosine of an example's gradients": float((rows.inner(before["rows"]) / norms).median()),
                    "cosine of the summed gradients": float(F.cosine_similarity(*totals, dim=0)),
                }
            )
        before.update(now)

    listener = Listener(on_model=on_model)
    trainer.fit(prepared.model, data.train, data.validation, seed=0, augment=data.augment, listener=listener)
    return found


def aign() -> dict:
    """AIGN over experiments/trades_full.yaml, and how its last model fares on the same training examples."""
    prepared = prepare(load(HERE.parent / "experiments/trades_full.yaml"))
    trainer, data, collector = prepared.trainer, prepared.data, GRADIENTS["input_norm"].collect()
    measure = partial(GRADIENTS["input_norm"].measure, source=data.train, ledger=CostLedger())
    listener = Listener(on_model=lambda model: collector.add(measure(model).rows.matrix[:, 0]))
    trainer.fit(prepared.model, data.train, data.validation, seed=0, augment=data.augment, listener=listener)
    values, model, everything = collector.rows.matrix[:, 0], prepared.model, torch.arange(len(data.train))
    wide, ledger = trainer.attack.with_settings(eps=4 * trainer.attack.eps, step_size=None, steps=20), CostLedger()
    radius = smallest_radius(model, data.train, wide, everything, stream=STREAM, ledger=ledger, parts=20)
    how = {"objective": trainer.objective, "attack": trainer.attack, "stream": STREAM, "ledger": ledger}
    clean, robust = (
        score_examples(loss, model, data.train, attacked=a, **how).rows.matrix[:, 0] for a in (False, True)
    )
    reached = torch.isfinite(radius)
    return {
        "n": len(values),
        "reached": int(reached.sum()),
        "largest radius": wide.eps,
        "AIGN with robust loss": _rank(values, robust),
        "AIGN with robust less clean loss": _rank(values, robust - clean),
        "AIGN with distance to the boundary": _rank(values[reached], radius[reached]),
        "points": [
            [round(float(v), 4) for v in point] for point in zip(values, robust, radius, strict=True) if point[2] < 9
        ],
    }


def _rank(one: Tensor, other: Tensor) -> float:
    """Spearman's rank correlation."""
    return float(spearmanr(one.numpy(), other.numpy()).statistic)


def page(facts: dict) -> str:
    """The tables, from the record alone."""
    epochs, own = facts["epochs"], facts["aign"]
    thirds = [epochs[: len(epochs) // 3], epochs[len(epochs) // 3 : -(len(epochs) // 3)], epochs[-(len(epochs) // 3) :]]
    rows = [(name, *(f"{sum(one[name] for one in part) / len(part):.2f}" for part in thirds)) for name in epochs[0]]
    links = [(name, f"{value:.2f}") for name, value in own.items() if name.startswith("AIGN")]
    return "\n".join(
        [
            "# What the scores foretell",
            "",
            "Made by `python benchmarks/diagnostics.py` on digits, one run each, device "
            f"{facts['environment']['device']}. Rank correlations are Spearman's, over all training examples.",
            "",
            "## Gradient matching, from one epoch to the next",
            "",
            "Selective training by gradient matching; the score is the cosine of an example's last-layer gradient with",
            "that of the whole set, at clean images. Means over the first, middle and last third of the epochs.",
            "",
            to_markdown(("", "first third", "middle", "last third"), rows),
            "",
            "## AIGN, vulnerability and the boundary",
            "",
            f"TRADES on all data, {own['n']} training examples; the boundary is the smallest linf ball in which PGD-20",
            f"flips the prediction, up to {own['largest radius']:g} ({own['reached']} examples have one).",
            "",
            to_markdown(("rank correlation of", ""), links),
            "",
            "![AIGN beside robust loss and distance to the boundary](diagnostics.png)",
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


if __name__ == "__main__":
    try:
        main()
    except AdvcoreError as error:
        sys.exit(str(error))
