"""A run's progress, its results, and the callbacks that report them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from advcore.cost import CostLedger
from advcore.errors import format_count
from advcore.selection.result import Coreset
from advcore.types import Event

State = dict[str, Tensor]
"""Weights and buffers of a model, by name."""

Entry = dict[str, Any]
"""What is recorded of an epoch, or of a minibatch rule in it: plain values by name."""

Snapshot = dict[str, Any]
"""What a run saves to be continued: nested dicts and lists of tensors and plain values."""


@dataclass
class Trained:
    """The results of a run.

    last, best : state dicts, on the CPU. best_epoch : the epoch of `best`, from 0; None without validation images.
    epochs : one entry per epoch. coresets : every selection, in order. ledger : passes and seconds of the whole run.
    events : what fell back: {epoch, kind, event}, the event as text.
    """

    last: State = field(default_factory=dict)
    best: State = field(default_factory=dict)
    best_epoch: int | None = None
    epochs: list[Entry] = field(default_factory=list)
    coresets: list[Coreset] = field(default_factory=list)
    events: list[Entry] = field(default_factory=list)
    ledger: CostLedger = field(default_factory=CostLedger)

    def __repr__(self) -> str:
        counts = {"epoch": len(self.epochs), "coreset": len(self.coresets), "event": len(self.events)}
        texts = [format_count(number, noun) for noun, number in counts.items()]
        return f"Trained({', '.join(texts)}, best_epoch={self.best_epoch}, ledger={self.ledger})"

    def add_events(self, epoch: int, *events: Event) -> None:
        """Record what fell back in an epoch."""
        self.events.extend({"epoch": epoch, "kind": event.kind, "event": event.text} for event in events)


def ignore(*_: object) -> None:
    """Do nothing, whatever is reported."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Callbacks for the events of a run. By default they do nothing.

    on_epoch : after each epoch, with its entry and the results so far.
    on_progress : within a phase, with its name, how much is done, and the total; where a run is continued, first with
        "epochs" and how many of them are done.
    on_coreset : after each selection.
    on_state : with a name, a state and its epoch's entry: "last" after each epoch, "best" when it improves, and
        "before_collapse" for the epoch before a catastrophic overfitting.
    on_model : after each epoch, with the model.
    on_checkpoint : after each `period`-th epoch and the last, and where a signal stops the run, with a function that
        returns all that the rest of the run depends on, for `fit(resume=...)`.
    """

    on_epoch: Callable[[Entry, Trained], None] = ignore
    on_progress: Callable[[str, int, int], None] = ignore
    on_coreset: Callable[[Coreset], None] = ignore
    on_state: Callable[[str, State, Entry], None] = ignore
    on_model: Callable[[nn.Module], None] = ignore
    on_checkpoint: Callable[[Callable[[], Snapshot]], None] = ignore
    period: int = 1


@dataclass
class Place:
    """How far a run is within an epoch; saved with the run, field by field.

    epoch : the epoch that runs, or runs next, from 0.
    begun : whether its coreset is chosen, and the minibatch rule and the memory are prepared for it.
    step : how many of its training steps are done.
    total, counted : the sum of losses times images so far, and the number of images in it.
    seen : examples trained on. lr : learning rate of the last step.
    norms : the sums from which headroom is computed (`HeadroomMeter.collect`), of the steps so far.
    entry : the epoch's entry, once all steps are done.
    rested : whether the images that a rule had queued are trained on.
    scored : whether its scores are taken.
    seconds : time spent on it before the run was last stopped.
    """

    epoch: int = 0
    begun: bool = False
    step: int = 0
    total: Tensor | float = 0.0
    counted: int = 0
    norms: Tensor | float = 0.0
    seen: int = 0
    lr: float = 0.0
    entry: Entry | None = None
    rested: bool = False
    scored: bool = False
    seconds: float = 0.0
