"""Scores that a run takes of its examples, epoch by epoch, for a solver that reads them."""

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from advcore.cost import CostLedger
from advcore.data.source import Source
from advcore.gradients.base import Gradient, MeasurementSettings
from advcore.rng import Stream
from advcore.rows import DenseRows, Rows
from advcore.training.progress import Listener
from advcore.training.row_catcher import RowCatcher
from advcore.types import Event

if TYPE_CHECKING:
    from advcore.training.loop import Run
    from advcore.training.trainer import Trainer


class EpochScores:
    """The scores of a run's examples after its epochs on all data; `collected` holds those so far.

    catcher : catches them in training; None: they are measured.
    """

    def __init__(self, run: "Run", score: Gradient, catcher: RowCatcher | None = None) -> None:
        self.run = run
        self.score = score
        self.catcher = catcher
        assert score.collect is not None, "a run takes scores that are collected"
        self.collected = score.collect()

    def add(self, epoch: int) -> None:
        """Score the examples with the model as it is after an epoch."""
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
        collected = copy.deepcopy(self.collected)

        def add_scores(model: nn.Module) -> None:
            collected.add(self._measure(0, model, ledger))

        trained = run.trainer.build_probe().fit(
            copy.deepcopy(run.model),
            run.train,
            seed=run.seed,
            augment=run.augment,
            listener=Listener(on_model=add_scores),
            progress=False,
        )
        ledger.add(trained.ledger)
        run.out.ledger.add(ledger, under="scoring")
        self.collected = collected  # all of them, or none where a signal stopped the probe

    def _measure(self, epoch: int, model: nn.Module, ledger: CostLedger) -> Tensor:
        run = self.run
        if self.catcher is not None:
            return get_scores(self.catcher.build_rows()).to(run.train.device)
        on_event = partial(run.out.add_events, epoch)
        return measure_scores(
            self.score, run.trainer, model, source=run.train, seed=run.seed, ledger=ledger, on_event=on_event
        )


def measure_scores(
    score: Gradient,
    trainer: "Trainer",
    model: nn.Module,
    *,
    source: Source,
    seed: int,
    ledger: CostLedger,
    on_event: Callable[[Event], None],
) -> Tensor:
    """Measure a score (N,) of each example, on the source's device, as a selection of the trainer's would.

    Without a selector, the training attack is used. `ledger` counts the passes; `on_event` is given each event.
    """
    selector = trainer.selector
    settings = MeasurementSettings(
        objective=trainer.objective,
        attack=(selector or trainer).attack,
        stream=Stream(seed=seed, purpose="scoring"),
        ledger=ledger,
        head=trainer.head,
        chunk_size=(selector or MeasurementSettings).chunk_size,
    )
    measured = score.measure(model, source, settings)
    for event in measured.events:
        on_event(event)
    return get_scores(measured.rows).to(source.device)


def get_scores(rows: Rows | None) -> Tensor:
    """Return the (N,) scores that rows of a single number hold."""
    assert isinstance(rows, DenseRows), "a score is a row of a single number"
    return rows.matrix[:, 0]
