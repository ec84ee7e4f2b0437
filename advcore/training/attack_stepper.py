"""Training steps that attack, and learn from, a part of each batch."""

import contextlib
import math

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.gradients.last_layer import residuals
from advcore.gradients.scores import cross_entropy_rows
from advcore.minibatch.base import AttackSubset, Picked, Seen
from advcore.models.base import tapped
from advcore.objectives.base import margin
from advcore.objectives.standard import Standard
from advcore.speed import uncompiled
from advcore.training.batches import Batch
from advcore.training.plain_stepper import PlainStepper, scoring
from advcore.training.progress import Entry, Snapshot
from advcore.training.step import Forward, Learner, weighted_mean


class AttackSubsetStepper(PlainStepper):
    """Steps that attack, and learn from, the examples that an `AttackSubset` rule picks of each batch.

    size : number of training examples. head : the last linear layer, for a rule that reads features.
    counts : (N,) how often each example was picked in the run. picked, picked_before : (N,) bool, which examples were
    picked in this epoch and in the one before; None before there is one. entropies : of each step's draw.
    """

    def __init__(self, rule: AttackSubset, size: int, device: torch.device, head: nn.Linear | None):
        self.rule = rule
        self.head = head
        self.epoch = 0
        self.counts = torch.zeros(size, dtype=torch.long, device=device)
        self.picked_before: Tensor | None = None
        self.picked: Tensor | None = None
        self.entropies: list[Tensor] = []

    def begin(self, epoch: int, entries: list[Entry]) -> None:
        self.epoch = epoch
        self.entropies = []
        self.picked_before = self.picked
        self.picked = torch.zeros_like(self.counts, dtype=torch.bool)

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        seen = self._look(learner, batch) if self.rule.scores(self.epoch, len(batch.y)) else None
        picked = self.rule.pick(seen, batch.rule_stream)
        i = picked.positions
        x = batch.x[i]
        y = batch.y[i]
        x_adv = learner.perturb(x, y, batch.attack_stream.take(i))
        weights = batch.weights[i] * picked.weights
        factor = 1.0
        images = len(i)
        if len(batch.y) < batch.images:
            factor, images = _share_of_mean(weights, learner.normalise)

        def loss_of(forward: Forward) -> Tensor:
            loss = factor * learner.loss(forward, x, x_adv, y, weights)
            if not self.rule.clean:
                return loss
            clean = Standard().loss(batch.y, clean=forward(batch.x))
            return loss + batch.factor * self.rule.clean * weighted_mean(clean, batch.weights, learner.normalise)

        self._note(picked, batch)
        return learner.update(loss_of, x.device, batch.where), images

    def _note(self, picked: Picked, batch: Batch) -> None:
        """Add a step's picks to the counts of the epoch."""
        self.entropies.append(picked.entropy)
        if batch.is_counted:
            indices = batch.indices.to(picked.positions.device)[picked.positions]
            self.counts[indices] += 1
            self.picked[indices] = True

    def _look(self, learner: Learner, batch: Batch) -> Seen:
        """Run the clean images in eval mode: one forward pass each, in phase "scoring"."""
        forward = learner.ledger.counted(learner.model)
        catch = contextlib.nullcontext(None) if self.head is None else tapped(self.head)
        with scoring(learner, batch.y.device), catch as tap, uncompiled():
            logits = forward(batch.x)
        if tap is None:
            rows = None
            residual = residuals(Standard(), batch.y, {"clean": logits})["clean"]
        else:
            rows = cross_entropy_rows(logits, batch.y, tap.features, self.head)
            residual = rows.residuals[0]
        return Seen(margins=-margin(logits, batch.y), residuals=residual, weights=batch.weights, rows=rows)

    def summarize(self, learner: Learner) -> Entry:
        """Return how the epoch's picks were spread.

        picked : examples attacked. entropy : of the draws, 1 where they are uniform. overlap : share of the picked that
        the epoch before picked too. coverage : share of all examples attacked so far. spread : entropy of how often
        each was attacked so far, 1 where all were equally often.
        """
        counts, before, present = self._merge_picks()
        picked = int(present.sum())
        shares = counts.double() / counts.sum()
        (entropy,) = distributed.summed([float(torch.stack(self.entropies).mean())])
        return {
            "picked": picked,
            "entropy": entropy / distributed.size(),
            "overlap": None if before is None else int((present & before).sum()) / picked,
            "coverage": float((counts > 0).double().mean()),
            "spread": float(torch.special.entr(shares).sum()) / math.log(len(shares)),
        }

    def _merge_picks(self) -> list[Tensor | None]:
        """Return counts, and who was picked in the epoch before and in this one, over all processes."""
        tensors = (self.counts, self.picked_before, self.picked)
        return [tensor if tensor is None else distributed.total(tensor.long()).to(tensor.dtype) for tensor in tensors]

    def state(self) -> Snapshot:
        counts, before, present = self._merge_picks()
        return {
            "counts": counts,
            "before": before,
            "now": present,
            "epoch": self.epoch,
            "entropies": distributed.gathered(list(self.entropies)),
        }

    def restore(self, state: Snapshot) -> None:
        device = self.counts.device
        entropies = state["entropies"][min(distributed.rank(), len(state["entropies"]) - 1)]
        self.epoch = state["epoch"]
        self.entropies = [entropy.to(device) for entropy in entropies]
        self.counts = _restore_picks(state["counts"], device)
        self.picked_before = _restore_picks(state["before"], device)
        self.picked = _restore_picks(state["now"], device)


def _restore_picks(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    """Return what all processes picked in the first process, and zeros in the others: the sum stays the same."""
    if tensor is None:
        return None
    tensor = tensor.to(device)
    return tensor if distributed.first() else torch.zeros_like(tensor)


def _share_of_mean(weights: Tensor, normalise: str) -> tuple[float, int]:
    """Return a factor for this process's mean over its picks, and how many picks all processes have.

    With the factor, the mean over the processes is the mean over all picks. weights : of this process's picks.
    """
    mass = float(weights.sum()) if normalise == "batch" else float(len(weights))
    total, images = distributed.summed([mass, float(len(weights))])
    return distributed.size() * mass / total, int(images)
