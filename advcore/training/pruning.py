"""Training steps on part of each epoch's examples, chosen by the losses of the steps themselves."""

import torch
from torch import Tensor

from advcore import distributed
from advcore.minibatch.epoch_subset import EpochSubset
from advcore.rng import Stream
from advcore.shares import divide
from advcore.training.picks import restore_picks, sum_picks
from advcore.training.progress import Entry, Snapshot
from advcore.training.step import Batch, Forward, Learner, PlainStepper, reduce_losses


class EpochSubsetStepper(PlainStepper):
    """Steps on the examples that an `EpochSubset` rule leaves in each epoch.

    size : number of training examples. batch_size : of a step; an epoch that would not fill one leaves nothing out.
    losses : (N,) of each example's last training step before this epoch, NaN where there was none.
    fresh, visited : (N,) the losses of this epoch's steps in this process, and which examples have one.
    offered, trained : how many examples each epoch so far could train on, and how many it trains on.
    """

    def __init__(self, rule: EpochSubset, size: int, device: torch.device, batch_size: int) -> None:
        self.rule = rule
        self.batch_size = batch_size
        self.losses = torch.full((size,), float("nan"), device=device)
        self.fresh = torch.zeros(size, device=device)
        self.visited = torch.zeros(size, dtype=torch.bool, device=device)
        self.offered: list[int] = []
        self.trained: list[int] = []

    def begin(self, epoch: int, entries: list[Entry]) -> None:
        """Take in the losses that all processes met in the epoch before."""
        visited = sum_picks(self.visited)
        self.losses = torch.where(visited, distributed.sum_tensor(self.fresh), self.losses)
        self.fresh = torch.zeros_like(self.fresh)
        self.visited = torch.zeros_like(self.visited)

    def choose_examples(self, examples: Tensor, stream: Stream, epochs: int) -> None:
        self.factors = None
        examples = examples.to(self.losses.device)
        count = len(examples)
        if self.rule.leaves_out(stream.epoch, epochs):
            chosen = self.rule.choose_weights(self.losses[examples], stream.at(examples)).float()
            left = int((chosen > 0).sum())
            if left >= min(self.batch_size, len(examples)):
                count = left
                self.factors = torch.zeros_like(self.fresh)
                self.factors[examples] = chosen
        self.offered.append(len(examples))
        self.trained.append(count)

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        x_adv = learner.perturb(batch.x, batch.y, batch.attack_stream)

        def compute_loss(forward: Forward) -> Tensor:
            losses = learner.losses(forward, batch.x, x_adv, batch.y)
            if batch.is_counted:
                self._record_losses(batch.indices, losses.detach())
            return batch.factor * reduce_losses(losses, batch.weights, learner.normalise)

        loss = learner.update(compute_loss, batch.x.device, batch.where)
        # Weights make up for what is left out, so the mean over what stays is too large by as much.
        return loss * divide(self.trained[-1], self.offered[-1]), batch.images

    def _record_losses(self, indices: Tensor, losses: Tensor) -> None:
        self.fresh[indices] = losses.to(self.fresh)
        self.visited[indices] = True

    def summarize(self, learner: Learner) -> Entry:
        """Return how many examples the rule leaves.

        trained : share of the epoch's examples that it trained on. saved : share of the examples of all epochs so far
        that they did not train on.
        """
        return {
            "trained": divide(self.trained[-1], self.offered[-1]),
            "saved": 1 - divide(sum(self.trained), sum(self.offered)),
        }

    def state(self) -> Snapshot:
        return {
            "losses": self.losses,
            "fresh": distributed.sum_tensor(self.fresh),
            "visited": sum_picks(self.visited),
            "factors": self.factors,
            "offered": list(self.offered),
            "trained": list(self.trained),
        }

    def restore(self, state: Snapshot) -> None:
        device = self.losses.device
        self.losses = state["losses"].to(device)
        self.fresh = restore_picks(state["fresh"], device)
        self.visited = restore_picks(state["visited"], device)
        self.factors = state["factors"]
        if self.factors is not None:
            self.factors = self.factors.to(device)
        self.offered = list(state["offered"])
        self.trained = list(state["trained"])
