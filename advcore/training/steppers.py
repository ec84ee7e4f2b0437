"""Training steps under a minibatch rule: on part of each batch, or of its clean and attacked images."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from advcore import distributed
from advcore.attacks.base import Attack
from advcore.data.source import Source
from advcore.evaluation.evaluate import smallest_radius
from advcore.gradients.last_layer import residuals
from advcore.gradients.scores import cross_entropy_rows
from advcore.minibatch.base import AttackSubset, Picked, Seen, UpdateSubset, count, normalise_entropy
from advcore.models.head import Head, run_layer_by_layer, tap_features
from advcore.objectives.base import compute_losses, compute_margin_loss
from advcore.objectives.standard import Standard
from advcore.rng import Stream
from advcore.shares import divide, measure_next_piece
from advcore.training.picks import restore_picks, sum_picks, weigh_picks
from advcore.training.progress import Entry, Snapshot
from advcore.training.step import Batch, Forward, Images, Learner, PlainStepper, enter_scoring, reduce_losses


class AttackSubsetStepper(PlainStepper):
    """Steps that attack, and train on, the examples that an `AttackSubset` rule picks of each batch.

    size : number of training examples. head : the last linear layer, for a rule that reads features.
    counts : (N,) how often this process picked each example in the run. picked, picked_before : (N,) bool, which
    examples it picked in this epoch and in the one before; None before there is one. entropies : of the epoch's draws.
    """

    def __init__(self, rule: AttackSubset, size: int, device: torch.device, head: Head | None) -> None:
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
        seen = self._score_clean_images(learner, batch) if self.rule.needs_scores(self.epoch, len(batch.y)) else None
        picked = self.rule.pick(seen, batch.rule_stream)
        i = picked.positions
        x, y = batch.x[i], batch.y[i]
        x_adv = learner.perturb(x, y, batch.attack_stream.take(i))
        weights = batch.weights[i] * picked.weights
        factor = 1.0
        images = len(i)
        if len(batch.y) < batch.images:
            factor, images = weigh_picks(weights, learner.normalise)

        def compute_loss(forward: Forward) -> Tensor:
            loss = factor * learner.loss(forward, x, x_adv, y, weights)
            return self._add_clean_loss(learner, forward, batch, loss)

        self._record_picks(picked, batch)
        return learner.update(compute_loss, x.device, batch.where), images

    def _add_clean_loss(self, learner: Learner, forward: Forward, batch: Batch, loss: Tensor) -> Tensor:
        if not self.rule.clean:
            return loss
        clean = Standard().loss(batch.y, clean=forward(batch.x))
        return loss + batch.factor * self.rule.clean * reduce_losses(clean, batch.weights, learner.normalise)

    def _record_picks(self, picked: Picked, batch: Batch) -> None:
        self.entropies.append(picked.entropy)
        if batch.is_counted:
            assert self.picked is not None, "`begin` made it"
            indices = batch.indices.to(picked.positions.device)[picked.positions]
            self.counts[indices] += 1
            self.picked[indices] = True

    def _score_clean_images(self, learner: Learner, batch: Batch) -> Seen:
        """Return what rules read of a batch: one forward pass of each clean image, in eval mode and phase "scoring"."""
        forward = learner.ledger.count_passes(learner.model)
        catch = contextlib.nullcontext(None) if self.head is None else tap_features(self.head)
        with enter_scoring(learner, batch.y.device), catch as tap, run_layer_by_layer(learner.model):
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
        """Return how the epoch's picks, of all processes, were spread.

        picked : number of examples attacked. entropy : mean over the draws, 1 where they are uniform. overlap : share
        of the picked that the epoch before picked too; None in the first epoch. coverage : share of all examples
        attacked so far. spread : entropy of how often each was attacked so far, 1 where all were equally often.
        """
        assert self.picked is not None, "`begin` made it"
        counts = sum_picks(self.counts)
        before = sum_picks(self.picked_before)
        present = sum_picks(self.picked)
        picked = int(present.sum())
        shares = divide(counts.double(), counts.sum())
        return {
            "picked": picked,
            "entropy": distributed.average_number(float(torch.stack(self.entropies).mean())),
            "overlap": None if before is None else divide(int((present & before).sum()), picked),
            "coverage": float((counts > 0).double().mean()),
            "spread": normalise_entropy(float(torch.special.entr(shares).sum()), len(shares)),
        }

    def state(self) -> Snapshot:
        return {
            "counts": sum_picks(self.counts),
            "before": sum_picks(self.picked_before),
            "now": sum_picks(self.picked),
            "epoch": self.epoch,
            "entropies": distributed.gather_values(list(self.entropies)),
        }

    def restore(self, state: Snapshot) -> None:
        device = self.counts.device
        self.epoch = state["epoch"]
        entropies = distributed.entry_of_process(state["entropies"], missing=state["entropies"][-1])
        self.entropies = [entropy.to(device) for entropy in entropies]
        self.counts = restore_picks(state["counts"], device)
        self.picked_before = restore_picks(state["before"], device)
        self.picked = restore_picks(state["now"], device)


class UpdateSubsetStepper(PlainStepper):
    """Steps that train on the images that an `UpdateSubset` rule keeps of each batch's clean and attacked ones.

    batch_size : size of a step, for a rule that queues what it keeps. attack : the run's, for a rule that measures
    in how small a ball it flips predictions (`probed`).
    share : what the rule keeps in this epoch. kept_indices, are_attacked : of the images kept in this epoch, one tensor
    per step. queue : kept images that wait for a full batch.
    """

    def __init__(self, rule: UpdateSubset, source: Source, batch_size: int, seed: int, attack: Attack | None) -> None:
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
        if self.rule.look == "train":
            return self._learn_in_one_pass(learner, batch)
        keep = self._keep_unseen if self.rule.reads is None else self._keep_by_losses
        kept, images = keep(learner, batch)
        positions = self._record_kept(kept, batch)
        kept_images = Images(images, batch.y[positions], batch.weights[positions])
        train = self._train_queued if self.rule.queue else self._take_step
        return train(learner, kept_images, batch.where)

    def _record_kept(self, kept: Tensor, batch: Batch) -> Tensor:
        """Return the positions of the examples of which images are kept, once these are noted for the epoch's entry."""
        size = len(batch.y)
        positions = kept % size  # images i and size + i are the clean and the attacked view of example i
        self.kept_indices.append(batch.indices.to(positions.device)[positions])
        self.are_attacked.append(kept >= size)
        return positions

    def _learn_in_one_pass(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        """Take one step on the images that are kept by the losses of the training pass of all 2 B images itself."""
        images = torch.cat([batch.x, learner.perturb(batch.x, batch.y, batch.attack_stream)])

        def compute_loss(forward: Forward) -> Tensor:
            losses = compute_losses(learner.objective, batch.y.repeat(2), adversarial=forward(images))
            kept = self.rule.choose_images(self.share, losses.detach(), batch.rule_stream)
            weights = batch.weights[self._record_kept(kept, batch)]
            learner.ledger.count("backward", len(kept) - len(images))  # no loss of the others is led back
            return reduce_losses(losses[kept], weights, learner.normalise)

        return learner.update(compute_loss, batch.x.device, batch.where), count(self.share, len(images))

    def _keep_unseen(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return which of the 2 B images a rule keeps that reads nothing, and those images; no others are attacked."""
        kept = self.rule.choose_images(self.share, None, batch.rule_stream)
        # From settings alone, so that the device need not be waited for.
        number = self.rule.count_attacked(len(batch.y))
        clean, attacked = kept.split([len(kept) - number, number])
        attacked = attacked - len(batch.y)  # positions of the examples
        x_adv = learner.perturb(batch.x[attacked], batch.y[attacked], batch.attack_stream.take(attacked))
        return kept, torch.cat([batch.x[clean], x_adv])

    def _keep_by_losses(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return which of the 2 B images the rule keeps by their losses, and those images; all are attacked first."""
        images = torch.cat([batch.x, learner.perturb(batch.x, batch.y, batch.attack_stream)])
        with enter_scoring(learner, batch.y.device):
            logits = learner.ledger.count_passes(learner.model)(images)
            losses = compute_losses(learner.objective, batch.y.repeat(2), adversarial=logits)
        kept = self.rule.choose_images(self.share, losses, batch.rule_stream)
        return kept, images[kept]

    def finish(self, learner: Learner) -> tuple[Tensor, int]:
        queued = self.queue
        self.queue = None
        if queued is None or not len(queued[1]):
            return super().finish(learner)
        return self._take_step(learner, queued, lambda: f"the end of epoch {self.epoch}")

    def summarize(self, learner: Learner) -> Entry:
        """Return what the epoch kept.

        p_up : the share kept. clean, adversarial : shares of the two among the kept images. radius : only for a rule
        that has some of the kept examples `probed`, as `_measure_radius` returns it.
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
        """Queue images, and take a step on each full batch of the queue.

        One image more than a full batch stays queued, so that no step has a single image. Returns the mean loss of the
        images trained on, and their number; 0 and 0 if the queue is too short.
        """
        queued = images
        if self.queue is not None:
            queued = Images(*(torch.cat(pair) for pair in zip(self.queue, images, strict=True)))
        size = self.batch_size
        total = torch.zeros((), device=images[0].device)
        trained = 0
        while measure_next_piece(len(queued[1]), size) == size:
            loss, _ = self._take_step(learner, Images(*(part[:size] for part in queued)), where)
            queued = Images(*(part[size:] for part in queued))
            total = total + loss * size
            trained += size
        self.queue = queued
        return total / max(trained, 1), trained

    def _take_step(self, learner: Learner, images: Images, where: Callable[[], str]) -> tuple[Tensor, int]:
        """Take one step on images, and return the loss and their number."""
        x, y, weights = images  # clean or attacked: the objective has one pass, which is given them in either case

        def compute_loss(forward: Forward) -> Tensor:
            return learner.loss(forward, x, x, y, weights)

        return learner.update(compute_loss, x.device, where), len(y)

    def _measure_radius(self, learner: Learner) -> Entry:
        """Measure in how small a ball the prediction flips, for up to `probed` of the epoch's kept examples.

        They are taken at equal steps from the lowest index on, without augmentation. n : how many. flipped : share of
        them that flip in the attack's ball. mean : radius of the smallest ball that flips, by eighths of the attack's,
        over those that flip; None if none does.
        """
        kept = torch.cat(self.kept_indices).unique()
        indices = kept[:: max(1, len(kept) // self.rule.probed)][: self.rule.probed].cpu()
        assert self.attack is not None, "no rule works with an objective that uses no attack"
        stream = Stream(seed=self.seed, purpose="radius", epoch=self.epoch)
        radii = smallest_radius(learner.model, self.source, self.attack, indices, stream=stream, ledger=learner.ledger)
        flipped = torch.isfinite(radii)
        mean = float(radii[flipped].mean()) if bool(flipped.any()) else None
        return {"n": len(radii), "flipped": float(flipped.double().mean()), "mean": mean}
