"""Training steps under a minibatch rule: on a part of each batch, or of its clean and attacked images."""

import contextlib
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.attacks.base import Attack
from advcore.data.source import Source
from advcore.evaluation.evaluate import smallest_radius
from advcore.gradients.last_layer import residuals
from advcore.gradients.scores import cross_entropy_rows
from advcore.minibatch.base import AttackSubset, Picked, Seen, UpdateSubset
from advcore.models.base import tap_features
from advcore.objectives.base import compute_margin_loss
from advcore.objectives.standard import Standard
from advcore.rng import Stream
from advcore.runtime.precision import disable_compilation
from advcore.training.progress import Entry, Snapshot
from advcore.training.step import Batch, Forward, Images, Learner, PlainStepper, enter_scoring, reduce_losses

# (N,) which examples were picked, or how often; None before there is an epoch of picks.
Picks = TypeVar("Picks", Tensor, Tensor | None)


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
        seen = self._look(learner, batch) if self.rule.needs_scores(self.epoch, len(batch.y)) else None
        picked = self.rule.pick(seen, batch.rule_stream)
        i = picked.positions
        x, y = batch.x[i], batch.y[i]
        x_adv = learner.perturb(x, y, batch.attack_stream.take(i))
        weights = batch.weights[i] * picked.weights
        factor = 1.0
        images = len(i)
        if len(batch.y) < batch.images:
            factor, images = _weigh_picks(weights, learner.normalise)

        def loss_of(forward: Forward) -> Tensor:
            loss = factor * learner.loss(forward, x, x_adv, y, weights)
            if not self.rule.clean:
                return loss
            clean = Standard().loss(batch.y, clean=forward(batch.x))
            return loss + batch.factor * self.rule.clean * reduce_losses(clean, batch.weights, learner.normalise)

        self._note(picked, batch)
        return learner.update(loss_of, x.device, batch.where), images

    def _note(self, picked: Picked, batch: Batch) -> None:
        self.entropies.append(picked.entropy)
        if batch.is_counted:
            assert self.picked is not None, "`begin` made it"
            indices = batch.indices.to(picked.positions.device)[picked.positions]
            self.counts[indices] += 1
            self.picked[indices] = True

    def _look(self, learner: Learner, batch: Batch) -> Seen:
        """Run the clean images in eval mode: one forward pass each, in phase "scoring"."""
        forward = learner.ledger.count_passes(learner.model)
        catch = contextlib.nullcontext(None) if self.head is None else tap_features(self.head)
        with enter_scoring(learner, batch.y.device), catch as tap, disable_compilation():
            logits = forward(batch.x)
        if tap is None:
            rows = None
            residual = residuals(Standard(), batch.y, {"clean": logits})["clean"]
        else:
            assert self.head is not None and tap.features is not None, "the pass went through the head"
            rows = cross_entropy_rows(logits, batch.y, tap.features, self.head)
            residual = rows.residuals[0]
        return Seen(margins=-compute_margin_loss(logits, batch.y), residuals=residual, weights=batch.weights, rows=rows)

    def summarize(self, learner: Learner) -> Entry:
        """Return how the epoch's picks were spread.

        picked : examples attacked. entropy : of the draws, 1 where they are uniform. overlap : share of the picked that
        the epoch before picked too. coverage : share of all examples attacked so far. spread : entropy of how often
        each was attacked so far, 1 where all were equally often.
        """
        assert self.picked is not None, "`begin` made it"
        counts = _sum_picks(self.counts)
        before = _sum_picks(self.picked_before)
        present = _sum_picks(self.picked)
        picked = int(present.sum())
        shares = counts.double() / counts.sum()
        return {
            "picked": picked,
            "entropy": distributed.average_number(float(torch.stack(self.entropies).mean())),
            "overlap": None if before is None else int((present & before).sum()) / picked,
            "coverage": float((counts > 0).double().mean()),
            "spread": float(torch.special.entr(shares).sum()) / math.log(len(shares)),
        }

    def state(self) -> Snapshot:
        return {
            "counts": _sum_picks(self.counts),
            "before": _sum_picks(self.picked_before),
            "now": _sum_picks(self.picked),
            "epoch": self.epoch,
            "entropies": distributed.gather_values(list(self.entropies)),
        }

    def restore(self, state: Snapshot) -> None:
        device = self.counts.device
        self.epoch = state["epoch"]
        entropies = distributed.entry_of_process(state["entropies"], missing=state["entropies"][-1])
        self.entropies = [entropy.to(device) for entropy in entropies]
        self.counts = _restore_picks(state["counts"], device)
        self.picked_before = _restore_picks(state["before"], device)
        self.picked = _restore_picks(state["now"], device)


def _sum_picks(tensor: Picks) -> Picks:
    """Return the sum over all processes, in the tensor's dtype."""
    if tensor is None:
        return tensor
    return distributed.sum_tensor(tensor.long()).to(tensor.dtype)


def _restore_picks(tensor: Picks, device: torch.device) -> Picks:
    """Return what all processes picked in the first process, and zeros in the others: the sum stays the same."""
    if tensor is None:
        return tensor
    tensor = tensor.to(device)
    return tensor if distributed.is_first() else torch.zeros_like(tensor)


def _weigh_picks(weights: Tensor, normalise: str) -> tuple[float, int]:
    """Return a factor for this process's mean over its picks, and how many picks all processes have.

    With the factor, the mean over the processes is the mean over all picks. weights : of this process's picks.
    """
    mass = float(weights.sum()) if normalise == "batch" else float(len(weights))
    total, images = distributed.sum_numbers([mass, float(len(weights))])
    return distributed.weigh_mean(mass, total), int(images)


class UpdateSubsetStepper(PlainStepper):
    """Steps that learn from the images that an `UpdateSubset` rule keeps of each batch's clean and attacked ones.

    batch_size : size of a step, for a rule that queues what it keeps. attack : gives the ball of which the radius of
    kept examples is a share; None for a rule that measures no radius.
    share : what the rule keeps in this epoch. kept_indices, are_attacked : of the images kept in this epoch, one tensor
    per step. queue : kept images that wait for a full batch.
    """

    def __init__(self, rule: UpdateSubset, source: Source, batch_size: int, seed: int, attack: Attack | None):
        self.rule = rule
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.attack = attack
        self.epoch = 0
        self.share = 0.0
        self.kept_indices: list[Tensor] = []
        self.are_attacked: list[Tensor] = []
        self.queue: Images | None = None

    def begin(self, epoch: int, entries: list[Entry]) -> None:
        self.epoch = epoch
        self.share = self.rule.choose_share(epoch, entries)
        self.kept_indices = []
        self.are_attacked = []

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        size = len(batch.y)
        keep = self._keep_unseen if self.rule.reads is None else self._keep_ranked
        kept, images = keep(learner, batch)
        positions = kept % size  # images i and size + i are the clean and the attacked view of example i
        self.kept_indices.append(batch.indices.to(positions.device)[positions])
        self.are_attacked.append(kept >= size)
        kept_images = Images(images, batch.y[positions], batch.weights[positions])
        train = self._train_queued if self.rule.queue else self._train
        return train(learner, kept_images, batch.where)

    def _keep_unseen(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
        """Let the rule keep images without looking at them, and attack no more than those."""
        size = len(batch.y)
        kept = self.rule.keep(self.share, None, batch.rule_stream)
        count = self.rule.count_attacked(size)  # from settings alone, so that the device need not be waited for
        clean, attacked = kept.split([len(kept) - count, count])
        attacked = attacked - size  # positions of the examples
        x_adv = learner.perturb(batch.x[attacked], batch.y[attacked], batch.attack_stream.take(attacked))
        return kept, torch.cat([batch.x[clean], x_adv])

    def _keep_ranked(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
        """Attack all images, and let the rule keep some of the clean and attacked ones by their losses."""
        images = torch.cat([batch.x, learner.perturb(batch.x, batch.y, batch.attack_stream)])
        with enter_scoring(learner, batch.y.device):
            logits = learner.ledger.count_passes(learner.model)(images)
            losses = learner.objective.loss(batch.y.repeat(2), adversarial=logits)
        kept = self.rule.keep(self.share, losses, batch.rule_stream)
        return kept, images[kept]

    def finish(self, learner: Learner) -> tuple[Tensor, int]:
        queued = self.queue
        self.queue = None
        if queued is None or not len(queued[1]):
            return super().finish(learner)
        return self._train(learner, queued, lambda: f"the end of epoch {self.epoch}")

    def summarize(self, learner: Learner) -> Entry:
        """Return what the epoch kept.

        p_up : the share kept. clean, adversarial : shares of the two among the kept images. radius : of the smallest
        ball, by eighths of the attack's, in which the prediction flips, for some of the kept examples.
        """
        adversarial = float(torch.cat(self.are_attacked).double().mean())
        facts: Entry = {"p_up": self.share, "clean": 1 - adversarial, "adversarial": adversarial}
        if self.rule.probed:
            facts["radius"] = self._measure_radius(learner)
        return facts

    def state(self) -> Snapshot:
        return {
            "epoch": self.epoch,
            "part": self.share,
            "kept": list(self.kept_indices),
            "attacked": list(self.are_attacked),
            "waiting": self.queue and list(self.queue),
        }

    def restore(self, state: Snapshot) -> None:
        device = self.source.device
        self.epoch = state["epoch"]
        self.share = state["part"]
        self.kept_indices = [indices.to(device) for indices in state["kept"]]
        self.are_attacked = [flags.to(device) for flags in state["attacked"]]
        self.queue = state["waiting"] and Images(*(part.to(device) for part in state["waiting"]))

    def _train_queued(self, learner: Learner, images: Images, where: Callable[[], str]) -> tuple[Tensor, int]:
        """Queue images, and take a step on each full batch of the queue; a last single image joins the one before."""
        queued = images
        if self.queue is not None:
            queued = Images(*(torch.cat(pair) for pair in zip(self.queue, images, strict=True)))
        size = self.batch_size
        total = torch.zeros((), device=images[0].device)
        trained = 0
        while len(queued[1]) >= size and len(queued[1]) != size + 1:
            loss, _ = self._train(learner, Images(*(part[:size] for part in queued)), where)
            queued = Images(*(part[size:] for part in queued))
            total = total + loss * size
            trained += size
        self.queue = queued
        return total / max(trained, 1), trained

    def _train(self, learner: Learner, images: Images, where: Callable[[], str]) -> tuple[Tensor, int]:
        x, y, weights = images

        def loss_of(forward: Forward) -> Tensor:
            return learner.loss(forward, x, x, y, weights)

        return learner.update(loss_of, x.device, where), len(y)

    def _measure_radius(self, learner: Learner) -> Entry:
        """Measure the smallest radius of `probed` kept examples, evenly chosen, on the plain view."""
        kept = torch.cat(self.kept_indices).unique()
        indices = kept[:: max(1, len(kept) // self.rule.probed)][: self.rule.probed].cpu()
        assert self.attack is not None, "no rule serves an objective that is not attacked"
        stream = Stream(seed=self.seed, purpose="radius", epoch=self.epoch)
        radii = smallest_radius(learner.model, self.source, self.attack, indices, stream=stream, ledger=learner.ledger)
        flipped = torch.isfinite(radii)
        mean = float(radii[flipped].mean()) if bool(flipped.any()) else None
        return {"n": len(radii), "flipped": float(flipped.double().mean()), "mean": mean}
