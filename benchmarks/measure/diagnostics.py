"""Measure what the papers' scores predict, on digits: python benchmarks/measure/diagnostics.py

Over a run of selective training by gradient matching: does an example's score predict how its robust loss changes in
the next epoch, and do gradient directions last from one epoch to the next? Over a TRADES run: is AIGN correlated with
vulnerability and with the distance of the decision boundary? The record goes to
benchmarks/records/diagnostics.json. About 3 minutes on 2 cores.
"""

import sys
from dataclasses import replace
from itertools import product

import torch
import torch.nn.functional as F
from records import EXPERIMENTS, save
from scipy.stats import spearmanr
from torch import Tensor, nn

from advcore.config.load import load
from advcore.cost import CostLedger
from advcore.errors import AdvcoreError
from advcore.evaluation.evaluate import smallest_radius
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.scores import score_examples
from advcore.minibatch.gradient_matching import measure_cosines
from advcore.objectives import Standard
from advcore.rng import Stream
from advcore.rows import FactoredRows
from advcore.run.environment import describe_environment
from advcore.run.prepare import prepare
from advcore.training.loop import Listener

STREAM = Stream(seed=0, purpose="diagnostics")


def main() -> None:
    facts = {"environment": describe_environment(torch.device("cpu")), "epochs": directions(), "aign": aign()}
    save("diagnostics", facts)


def loss(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    return F.cross_entropy(z, y, reduction="none").double()


def inner_products(one: FactoredRows, other: FactoredRows) -> Tensor:
    """Return <G_i, H_i> of each row with the same example's row of `other`, (N,) float64."""
    exact = [one.to_float64(), other.to_float64()]
    passes, others = (list(zip(rows.residuals, rows.features, strict=True)) for rows in exact)
    return sum((a * b).sum(1) * (g * h).sum(1) for (a, g), (b, h) in product(passes, others))


def directions() -> list[dict]:
    """Of each epoch of experiments/selective_gradient_matching.yaml, over all training examples."""
    prepared = prepare(load(EXPERIMENTS / "selective_gradient_matching.yaml"))
    trainer, data = prepared.trainer, prepared.data
    found, before = [], {}

    def on_model(model: nn.Module) -> None:
        how = MeasurementSettings(
            objective=trainer.objective, attack=trainer.attack, stream=STREAM, ledger=CostLedger()
        )
        clean = replace(how, objective=Standard(), attack=None)
        rows = GRADIENTS["last_layer"].measure(model, data.train, clean).rows
        robust = score_examples(loss, model, data.train, how, attacked=True).rows.matrix[:, 0]
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
                    "cosine of an example's gradients": float((inner_products(rows, before["rows"]) / norms).median()),
                    "cosine of the summed gradients": float(F.cosine_similarity(*totals, dim=0)),
                }
            )
        before.update(now)

    listener = Listener(on_model=on_model)
    trainer.fit(prepared.model, data.train, data.validation, seed=0, augment=data.augment, listener=listener)
    return found


def aign() -> dict:
    """AIGN over experiments/trades_full.yaml, and how its last model fares on the same training examples."""
    prepared = prepare(load(EXPERIMENTS / "trades_full.yaml"))
    trainer, data, collector = prepared.trainer, prepared.data, GRADIENTS["input_norm"].collect()
    settings = MeasurementSettings(ledger=CostLedger())

    def add_norms(model: nn.Module) -> None:
        collector.add(GRADIENTS["input_norm"].measure(model, data.train, settings).rows.matrix[:, 0])

    listener = Listener(on_model=add_norms)
    trainer.fit(prepared.model, data.train, data.validation, seed=0, augment=data.augment, listener=listener)
    values, model, everything = collector.rows.matrix[:, 0], prepared.model, torch.arange(len(data.train))
    wide, ledger = trainer.attack.with_settings(eps=4 * trainer.attack.eps, step_size=None, steps=20), CostLedger()
    radius = smallest_radius(model, data.train, wide, everything, stream=STREAM, ledger=ledger, parts=20)
    how = MeasurementSettings(objective=trainer.objective, attack=trainer.attack, stream=STREAM, ledger=ledger)
    clean, robust = (score_examples(loss, model, data.train, how, attacked=a).rows.matrix[:, 0] for a in (False, True))
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


if __name__ == "__main__":
    try:
        main()
    except AdvcoreError as error:
        sys.exit(str(error))
