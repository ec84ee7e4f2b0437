"""Measure how long a coreset represents the data: python benchmarks/measure/staleness.py [--quick]

Trains on 4,000 CIFAR-10 images (JPEG copies, below the folder that ADVCORE_DATA names) by one attack step, selects
30 % of them once, after 4 epochs, and trains 8 epochs on that. After each epoch all examples are attacked again: how
far is the coreset's weighted gradient from the current gradient of all data, compared with random subsets of the same
size and with the batches of the steps? And what is the loss inside and outside the coreset? The record goes to
benchmarks/records/staleness.json, from which docs/evidence.md is made. About 10 minutes on 2 cores.
"""

import sys

import torch
from diagnostics import loss
from records import EXPERIMENTS, save
from torch import nn

from advcore.config.load import load
from advcore.cost import CostLedger
from advcore.errors import AdvcoreError
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.scores import score_examples
from advcore.rng import Stream
from advcore.run.environment import describe_environment
from advcore.run.prepare import prepare
from advcore.selection.partition import Problem
from advcore.selection.quality import measure_gradient_error, measure_random_error
from advcore.training.loop import Listener

SOLVERS, SEEDS = ("gradmatch", "craig", "random"), (0, 1, 2)
STREAM = Stream(seed=0, purpose="staleness")
SETTINGS = [
    *("data.train_size=4000", "data.test_size=1000", "training.batch_size=64", "training.epochs=20"),
    *("attack.steps=1", "attack.step_size=10/255", "training.speed={autocast: bfloat16, channels_last: true}"),
]
QUICK = ["data={name: digits, train_size: 400}", "training.epochs=5"]


def main(*arguments: str) -> None:
    quick = "--quick" in arguments
    found = {
        solver: [after_epochs(solver, seed, quick) for seed in SEEDS[: 1 if quick else None]] for solver in SOLVERS
    }
    facts = {"quick": quick, "environment": describe_environment(torch.device("cpu")), "found": found}
    save("staleness", facts, quick=quick)


def after_epochs(solver: str, seed: int, quick: bool) -> list[dict]:
    """Return the measures of the state at the selection, then of each epoch on the coreset."""
    how = f"selection={{solver: {{name: {solver}}}, partition: per_class, budget: 0.3, warm_start: 0.6, period: null}}"
    changes = [*SETTINGS, *(QUICK if quick else []), how, f"seed={seed}"]
    prepared = prepare(load(EXPERIMENTS / "cifar10/linf_gradmatch_small.yaml", changes))
    trainer, data, chosen, found = prepared.trainer, prepared.data, [], []

    def look(model: nn.Module) -> None:
        settings = MeasurementSettings(
            objective=trainer.objective, attack=trainer.attack, stream=STREAM, ledger=CostLedger()
        )
        rows = GRADIENTS["last_layer"].measure(model, data.train, settings).rows
        losses = score_examples(loss, model, data.train, settings, attacked=True).rows.matrix[:, 0]
        everything = [Problem("all", lambda: rows, torch.arange(len(rows)), 0)]
        inside = torch.zeros(len(data.train), dtype=torch.bool)
        inside[chosen[0].indices] = True
        found.append(
            {
                "coreset": measure_gradient_error(rows, chosen[0].indices, chosen[0].weights.double()),
                "random subset": measure_random_error(rows, everything, chosen[0].indices, STREAM, rows.total()),
                "batch": measure_random_error(rows, everything, torch.arange(trainer.batch_size), STREAM, rows.total()),
                "loss inside": float(losses[inside].mean()),
                "loss outside": float(losses[~inside].mean()),
            }
        )

    listener = Listener(
        on_coreset=lambda coreset: (chosen.append(coreset), look(prepared.model)),
        on_model=lambda model: look(model) if chosen else None,
    )
    trainer.fit(prepared.model, data.train, data.validation, seed=seed, augment=data.augment, listener=listener)
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except AdvcoreError as error:
        sys.exit(str(error))
