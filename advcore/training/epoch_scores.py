"""Scores that a run takes of its examples, epoch by epoch, for a solver that reads them."""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from advcore.attacks.memory import Memory
from advcore.cost import CostLedger
from advcore.gradients import GRADIENTS
from advcore.gradients.base import Collector, Gradient, MeasurementSettings
from advcore.objectives.standard import Standard
from advcore.rng import Stream
from advcore.rows import DenseRows
from advcore.selection.schedule import Schedule
from advcore.training.progress import Listener

if TYPE_CHECKING:
    from advcore.training.loop import Run
    from advcore.training.trainer import Trainer


def build_collector(trainer: "Trainer") -> Collector:
    """Build what collects scores over the epochs of a run that takes them."""
    collect = _find_score(trainer).collect
    assert collect is not None, "such scores are collected"
    return collect()


def _find_score(trainer: "Trainer") -> Gradient:
    """Return how the scores are measured that a run takes."""
    assert trainer.solver_reads is not None, "scores are taken for a solver that reads them"
    return GRADIENTS[trainer.solver_reads]


def score_examples(run: "Run", epoch: int, model: nn.Module, ledger: CostLedger) -> Tensor:
    """Return a score (N,) of each training example, as `model` stands after an epoch; `ledger` counts the passes."""
    trainer = run.trainer
    selector = trainer.selector
    assert selector is not None, "scores are taken for a selection"
    settings = MeasurementSettings(
        objective=trainer.objective,
        attack=selector.attack,
        stream=Stream(seed=run.seed, purpose="scoring"),
        ledger=ledger,
        head=trainer.head,
        chunk_size=selector.chunk_size,
    )
    measured = _find_score(trainer).measure(model, run.train, settings)
    for event in measured.events:
        run.out.add_event(epoch, event)
    assert isinstance(measured.rows, DenseRows), "a score is a row of a single number"
    return measured.rows.matrix[:, 0].to(run.train.device)


def score_probe(run: "Run") -> Collector:
    """Train a copy of the model without attacks, and return the scores taken after each of its epochs.

    All its passes count as phase "scoring".
    """
    trainer = run.trainer
    ledger = CostLedger()
    scores = build_collector(trainer)
    probe = replace(
        trainer,
        objective=Standard(),
        attack=None,
        attack_steps=None,
        memory=Memory(),
        minibatch=None,
        selector=None,
        schedule=Schedule(epochs=trainer.probe_epochs),
        probe_epochs=0,
        ema=None,
    )

    def add_scores(model: nn.Module) -> None:
        scores.add(score_examples(run, 0, model, ledger))

    listener = Listener(on_model=add_scores)
    trained = probe.fit(copy.deepcopy(run.model), run.train, seed=run.seed, augment=run.augment, listener=listener)
    ledger.add(trained.ledger)
    run.out.ledger.add(ledger, under="scoring")
    return scores
