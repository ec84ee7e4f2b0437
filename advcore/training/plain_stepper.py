"""Training steps on whole batches, and what all kinds of steps share."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from advcore.borrow import borrow, device_of
from advcore.training.batches import Batch
from advcore.training.progress import Entry, Snapshot
from advcore.training.step import Learner, step


class PlainStepper:
    """Steps on whole batches: every example is attacked and learned from."""

    def begin(self, epoch: int, entries: list[Entry]) -> None:
        """Prepare for a new epoch; `entries` of the epochs before it hold what validation measured."""

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        """Train on a batch, and return the loss and the number of images of which it is the mean."""
        loss = step(
            learner,
            batch.x,
            batch.y,
            batch.weights,
            generator=batch.attack_stream,
            where=batch.where,
            factor=batch.factor,
        )
        return loss, batch.images

    def finish(self, learner: Learner) -> tuple[Tensor, int]:
        """Train on images that are still queued at the end of an epoch, and return as `step` does; 0 images if none."""
        return torch.zeros((), device=device_of(learner.model)), 0

    def summarize(self, learner: Learner) -> Entry:
        """Return what the epoch's entry says of the rule."""
        return {}

    def state(self) -> Snapshot:
        """Return all that a later step depends on, for a checkpoint."""
        return {}

    def restore(self, state: Snapshot) -> None:
        """Put back what `state` returned, in a run with the same rule."""


@contextlib.contextmanager
def scoring(learner: Learner, device: torch.device) -> Iterator[None]:
    """Put the model in eval mode without gradients, in phase "scoring"; BatchNorm's statistics stay as they are."""
    with learner.ledger.phase("scoring", device), borrow(learner.model, training=False), torch.no_grad():
        yield
