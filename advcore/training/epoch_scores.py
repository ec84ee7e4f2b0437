"""Scores that a run takes of its examples, epoch by epoch, for a solver that reads them."""

import copy
from typing import TYPE_CHECKING

from torch import Tensor, nn

from advcore.cost import CostLedger
from advcore.gradients.base import Collector, Gradient, MeasurementSettings
from advcore.rng import Stream
from advcore.rows import DenseRows
from advcore.training.progress import Listener

if TYPE_CHECKING:
    from advcore.training.loop import Run


class EpochScores:
    """The scores of a run's examples after its epochs on all data; `collected` holds those so far."""

    def __init__(self, run: "Run", score: Gradient):
        self.run = run
        self.score = score
        self.collected = self._build_collector()

    def _build_collector(self) -> Collector:
        assert self.score.collect is not None, "a run takes scores that are collected"
        return self.score.collect()

    def add(self, epoch: int) -> None:
        """Score the examples as the model stands after an epoch."""
        self.collected.add(self._measure(epoch, self.run.model, self.run.out.ledger))

    def begin(self) -> None:
        """Take the scores of the probe epochs, unless there are none or they are taken already.

        A copy of the model is trained without attacks, and scored after each epoch. All passes of that count as phase
        "scoring".
        """
        run = self.run
        if not run.trainer.probe_epochs or self.collected.epochs:
            return
        ledger = CostLedger()
        collected = self._build_collector()

        def add_scores(model: nn.Module) -> None:
            collected.add(self._measure(0, model, ledger))

        trained = run.trainer.build_probe().fit(
            copy.deepcopy(run.model),
            run.train,
            seed=run.seed,
            augment=run.augment,
            listener=Listener(on_model=add_scores),
        )
        ledger.add(trained.ledger)
        run.out.ledger.add(ledger, under="scoring")
        self.collected = collected  # all of them, or none where a signal stopped the probe

    def _measure(self, epoch: int, model: nn.Module, ledger: CostLedger) -> Tensor:
        """Return a score (N,) of each training example; `ledger` counts the passes."""
        run = self.run
        selector = run.trainer.get_selector()
        settings = MeasurementSettings(
            objective=run.trainer.objective,
            attack=selector.attack,
            stream=Stream(seed=run.seed, purpose="scoring"),
            ledger=ledger,
            head=run.trainer.head,
            chunk_size=selector.chunk_size,
        )
        measured = self.score.measure(model, run.train, settings)
        run.out.add_events(epoch, *measured.events)
        assert isinstance(measured.rows, DenseRows), "a score is a row of a single number"
        return measured.rows.matrix[:, 0].to(run.train.device)
