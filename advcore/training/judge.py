"""Judge the model after each epoch: validation accuracies, the best state, and catastrophic overfitting."""

import logging
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from advcore.data.split import subsample
from advcore.evaluation.evaluate import Evaluation, evaluate
from advcore.runtime.device import measure_peak_memory
from advcore.runtime.states import copy_state
from advcore.training.progress import Entry, State
from advcore.types import Event

if TYPE_CHECKING:
    from advcore.training.loop import Run

COLLAPSE = 0.20
"""Fall of probe robust accuracy between epochs that is catastrophic overfitting."""

log = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """An epoch as the probe attack judged it: the model's state, the epoch's entry, and the probe's robust accuracy."""

    state: State
    entry: Entry
    robust: Entry


class Judge:
    """What is known of the epochs that a run has judged, and how the next one is judged.

    best_score : accuracy of the best epoch. previous : the last epoch that a probe attacked.
    Without validation examples nothing is evaluated.
    """

    def __init__(self, run: "Run") -> None:
        self.run = run
        self.best_score = -math.inf
        self.previous: Verdict | None = None
        if run.validation is not None:
            size = min(run.trainer.probe_examples, len(run.validation))
            self.probe_indices = subsample(run.validation.labels(), size, run.seed, "probe")
        elif run.trainer.few_steps:
            run.out.add_events(
                0,
                Event(
                    "validation",
                    "few attack steps and no validation examples: catastrophic overfitting would go "
                    "unnoticed; hold out some examples",
                ),
            )

    def judge(self, model: nn.Module, entry: Entry, device: torch.device) -> None:
        """Write validation accuracies and the peak of memory into `entry`, and hand the state to the listener."""
        state = copy_state(model)
        if self.run.validation is not None:
            probe = self.run.trainer.probe
            evaluation = evaluate(
                model,
                self.run.validation,
                [] if probe is None else [probe],
                seed=self.run.seed,
                split="validation",
                indices=self.probe_indices,
                ledger=self.run.out.ledger,
            )
            self._compare(state, entry, evaluation)
        entry["peak_memory"] = measure_peak_memory(device)
        self.run.listener.on_state("last", state, entry)

    def _compare(self, state: State, entry: Entry, evaluation: Evaluation) -> None:
        """Keep the state if it is the best so far: by robust accuracy, or clean accuracy where nothing attacks."""
        score = entry["clean"] = evaluation.clean.accuracy
        entry["robust"] = None
        if evaluation.attacks:
            entry["probe"] = evaluation.attacks[0]
            score = entry["robust"] = entry["probe"]["accuracy"]
        if score > self.best_score:
            self.best_score = score
            self.run.out.best, self.run.out.best_epoch = state, entry["epoch"]
            self.run.listener.on_state("best", state, entry)
        if evaluation.attacks:
            self._watch_for_collapse(Verdict(state, entry, entry["probe"]))

    def _watch_for_collapse(self, verdict: Verdict) -> None:
        """Report catastrophic overfitting as an event, and keep the weights before it.

        Reference: Wong et al. (2020), section 5.4.
        """
        before, self.previous = self.previous, verdict
        if before is None or not is_collapse(before.robust, verdict.robust):
            return
        epoch = verdict.entry["epoch"]
        event = Event(
            "collapse",
            "catastrophic overfitting: probe robust accuracy fell "
            f"from {before.robust['accuracy']:.3f} to {verdict.robust['accuracy']:.3f}; "
            f"the weights of epoch {before.entry['epoch']} are kept as before_collapse",
        )
        self.run.out.add_events(epoch, event)
        log.warning("epoch %d: %s", epoch, event)
        self.run.listener.on_state("before_collapse", before.state, before.entry)


def is_collapse(before: Entry, after: Entry) -> bool:
    """Return whether robust accuracy fell by more than 0.20, and by more than both confidence intervals allow."""
    return before["accuracy"] - after["accuracy"] > COLLAPSE and after["interval"][1] < before["interval"][0]
