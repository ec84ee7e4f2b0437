"""Scores of the training examples over the epochs of a run, for solvers that read such scores."""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from advcore.attacks.memory import Memory
from advcore.cost import CostLedger
from advcore.gradients import GRADIENTS
from advcore.gradients.base import Collector
from advcore.objectives.standard import Standard
from advcore.rng import Stream
from advcore.selection.schedule import Schedule
from advcore.training.progress import Listener

if TYPE_CHECKING:
    from advcore.training.loop import Loop


def score_examples(loop: "Loop", model: nn.Module, ledger: CostLedger) -> Tensor:
    """Return a score (N,) of each training example, as `model` stands now; `ledger` counts the passes."""
    trainer = loop.trainer
    measured = GRADIENTS[trainer.solver_reads].measure(
        model,
        loop.train,
        objective=trainer.objective,
        attack=trainer.selector.attack,
        stream=Stream(seed=loop.seed, purpose="scoring"),
        ledger=ledger,
        head=trainer.head,
        chunk_size=trainer.selector.chunk_size,
    )
    for event in measured.events:
        loop.out.add_event(loop.place.epoch, event)
    return measured.rows.matrix[:, 0].to(loop.train.device)


def score_probe(loop: "Loop") -> Collector:
    """Train a copy of the model without attacks, and return the scores taken after each of its epochs.

    All its passes count as phase "scoring".
    """
    trainer = loop.trainer
    ledger = CostLedger()
    scores = GRADIENTS[trainer.solver_reads].collect()
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
        scores.add(score_examples(loop, model, ledger))

    listener = Listener(on_model=add_scores)
    trained = probe.fit(copy.deepcopy(loop.model), loop.train, seed=loop.seed, augment=loop.augment, listener=listener)
    ledger.add(trained.ledger)
    loop.out.ledger.add(ledger, under="scoring")
    return scores
