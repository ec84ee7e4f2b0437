"""Training steps that learn from a part of the clean and attacked images of each batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from advcore.attacks.base import Attack
from advcore.data.source import Source
from advcore.evaluation.evaluate import smallest_radius
from advcore.minibatch.base import UpdateSubset
from advcore.rng import Stream
from advcore.training.batches import Batch
from advcore.training.plain_stepper import PlainStepper, scoring
from advcore.training.progress import Entry, Snapshot
from advcore.training.step import Forward, Learner

Images = tuple[Tensor, Tensor, Tensor]
"""Images to learn from, clean or attacked (B, C, H, W), with their labels (B,) and weights (B,)."""


class UpdateSubsetStepper(PlainStepper):
    """Steps that learn from the images that an `UpdateSubset` rule keeps of each batch's clean and attacked ones.

    batch_size : size of a step, for a rule that queues what it keeps. attack : gives the ball of which the radius of
    kept examples is a share.
    share : what the rule keeps in this epoch. kept_indices, are_attacked : of the images kept in this epoch, one tensor
    per step. queue : kept images that wait for a full batch.
    """

    def __init__(self, rule: UpdateSubset, source: Source, batch_size: int, seed: int, attack: Attack):
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
        self.share = self.rule.share(epoch, entries)
        self.kept_indices = []
        self.are_attacked = []

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        size = len(batch.y)
        if self.rule.reads is None:
            kept, images = self._keep_unseen(learner, batch)
        else:
            kept, images = self._keep_ranked(learner, batch)
        positions = kept % size  # of the examples, of which each image is a clean or an attacked view
        self.kept_indices.append(batch.indices.to(positions.device)[positions])
        self.are_attacked.append(kept >= size)
        kept_images = (images, batch.y[positions], batch.weights[positions])
        train = self._train_queued if self.rule.queue else self._train
        return train(learner, kept_images, batch.where)

    def _keep_unseen(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
        """Let the rule keep images without looking at them, and attack no more than those."""
        size = len(batch.y)
        kept = self.rule.keep(self.share, None, batch.rule_stream)
        attacked = self.rule.attacked(size)  # computed from settings, so that the device need not be waited for
        clean, moved = kept.split([len(kept) - attacked, attacked])
        moved = moved - size
        x_adv = learner.perturb(batch.x[moved], batch.y[moved], batch.attack_stream.take(moved))
        return kept, torch.cat([batch.x[clean], x_adv])

    def _keep_ranked(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
        """Attack all images, and let the rule keep some of the clean and attacked ones by their losses."""
        images = torch.cat([batch.x, learner.perturb(batch.x, batch.y, batch.attack_stream)])
        with scoring(learner, batch.y.device):
            logits = learner.ledger.counted(learner.model)(images)
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
        facts = {"p_up": self.share, "clean": 1 - adversarial, "adversarial": adversarial}
        if self.rule.probed:
            facts["radius"] = self._measure_radius(learner)
        return facts

    def state(self) -> Snapshot:
        return {
            "epoch": self.epoch,
            "part": self.share,
            "kept": list(self.kept_indices),
            "attacked": list(self.are_attacked),
            "waiting": None if self.queue is None else list(self.queue),
        }

    def restore(self, state: Snapshot) -> None:
        device = self.source.device
        self.epoch = state["epoch"]
        self.share = state["part"]
        self.kept_indices = [indices.to(device) for indices in state["kept"]]
        self.are_attacked = [flags.to(device) for flags in state["attacked"]]
        self.queue = state["waiting"] and tuple(part.to(device) for part in state["waiting"])

    def _train_queued(self, learner: Learner, images: Images, where: Callable[[], str]) -> tuple[Tensor, int]:
        """Queue images, and take a step on each full batch of the queue; a last single image joins the one before."""
        queued = images
        if self.queue is not None:
            queued = tuple(torch.cat(pair) for pair in zip(self.queue, images, strict=True))
        size = self.batch_size
        total = torch.zeros((), device=images[0].device)
        trained = 0
        while len(queued[1]) >= size and len(queued[1]) != size + 1:
            loss, _ = self._train(learner, tuple(part[:size] for part in queued), where)
            queued = tuple(part[size:] for part in queued)
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
        stream = Stream(seed=self.seed, purpose="radius", epoch=self.epoch)
        radii = smallest_radius(learner.model, self.source, self.attack, indices, stream=stream, ledger=learner.ledger)
        flipped = torch.isfinite(radii)
        mean = float(radii[flipped].mean()) if bool(flipped.any()) else None
        return {"n": len(radii), "flipped": float(flipped.double().mean()), "mean": mean}
