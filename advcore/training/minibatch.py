"""Steps that attack, or learn from, a part of each batch; and what they tell of an epoch."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import passes
from advcore.attacks.base import Attack
from advcore.borrow import borrow, device_of
from advcore.data.source import Source, first_images
from advcore.errors import ConfigError, must
from advcore.evaluation.evaluate import smallest_radius
from advcore.gradients.last_layer import residuals
from advcore.gradients.scores import cross_entropy_rows
from advcore.minibatch.base import AttackSubset, Seen, UpdateSubset, count
from advcore.models.base import find_head, tapped
from advcore.objectives.base import Objective, attacked, margin
from advcore.objectives.standard import Standard
from advcore.rng import Stream, preserved
from advcore.speed import uncompiled
from advcore.training.step import Learner, step, weighted_mean

Rule = AttackSubset | UpdateSubset


@dataclass(frozen=True)
class Batch:
    """B examples of an epoch, and their streams: of the attack, and of the rule.

    images : of the whole batch, of which these may be one process's part; factor : what this part's loss counts for,
    where the mean over the processes is to be the whole's; counts : whether no other process does the same.
    """

    indices: Tensor
    x: Tensor
    y: Tensor
    weights: Tensor
    attack: Stream
    rule: Stream
    where: Callable[[], Any]
    images: int
    factor: float = 1.0
    counts: bool = True


class Plain:
    """No rule: every example is attacked and learned from."""

    def begin(self, epoch: int, accuracies: list[dict]) -> None:
        """A new epoch; what validation said of those before it."""

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        """The loss, and how many images it is the mean of."""
        how = {"generator": batch.attack, "where": batch.where, "factor": batch.factor}
        return step(learner, batch.x, batch.y, batch.weights, **how), batch.images

    def rest(self, learner: Learner) -> tuple[Tensor, int]:
        """A last step of the epoch on what still waits: as `step`; 0 images where nothing does."""
        return torch.zeros((), device=device_of(learner.model)), 0

    def end(self, learner: Learner) -> dict[str, Any]:
        """What the epoch's entry tells of the rule."""
        return {}

    def state(self) -> dict[str, Any]:
        """All that a later step depends on, for a checkpoint."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """What `state` gave, on the rule of the same run."""


class OfAttacks(Plain):
    """`AttackSubset` over the epochs of a run on `size` examples.

    head : the last linear layer, where the rule reads features.
    """

    def __init__(self, rule: AttackSubset, size: int, device: torch.device, head: nn.Linear | None):
        self.rule, self.head, self.epoch = rule, head, 0
        self.counts = torch.zeros(size, dtype=torch.long, device=device)
        self.before: Tensor | None = None
        self.now: Tensor | None = None
        self.entropies: list[Tensor] = []

    def begin(self, epoch: int, accuracies: list[dict]) -> None:
        self.epoch, self.entropies = epoch, []
        self.before, self.now = self.now, torch.zeros_like(self.counts, dtype=torch.bool)

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        seen = self._look(learner, batch) if self.rule.scores(self.epoch, len(batch.y)) else None
        picked = self.rule.pick(seen, batch.rule)
        i, x, y, weights = picked.positions, batch.x, batch.y, batch.weights
        x_adv, own = learner.perturbed(x[i], y[i], batch.attack.take(i)), weights[i] * picked.weights
        factor, images = _of_all(own, learner.normalise) if len(y) < batch.images else (1.0, len(i))

        def loss(forward: Callable) -> Tensor:
            found = factor * learner.loss(forward, x[i], x_adv, y[i], own)
            if not self.rule.clean:
                return found
            clean = Standard().loss(y, clean=forward(x))
            return found + batch.factor * self.rule.clean * weighted_mean(clean, weights, learner.normalise)

        self.entropies.append(picked.entropy)
        if batch.counts:
            chosen = batch.indices.to(i.device)[i]
            self.counts[chosen] += 1
            self.now[chosen] = True
        return learner.update(loss, x.device, batch.where), images

    def end(self, learner: Learner) -> dict[str, Any]:
        """picked : examples attacked. entropy : of the draws, 1 where they are uniform. overlap : share of the picked
        that the epoch before picked too. coverage : share of all examples attacked so far. spread : entropy of how
        often each was attacked so far, 1 where all were alike."""
        counts, before, now = self._together()
        picked, often = int(now.sum()), counts.double() / counts.sum()
        (entropy,) = distributed.summed([float(torch.stack(self.entropies).mean())])
        return {
            "picked": picked,
            "entropy": entropy / distributed.size(),
            "overlap": None if before is None else int((now & before).sum()) / picked,
            "coverage": float((counts > 0).double().mean()),
            "spread": float(torch.special.entr(often).sum()) / math.log(len(often)),
        }

    def _together(self) -> list[Tensor | None]:
        """Counts, and who was picked in the epoch before and in this one, by any process."""
        found = (self.counts, self.before, self.now)
        return [own if own is None else distributed.total(own.long()).to(own.dtype) for own in found]

    def state(self) -> dict[str, Any]:
        told = dict(zip(("counts", "before", "now"), self._together(), strict=True))
        return told | {"epoch": self.epoch, "entropies": distributed.gathered(list(self.entropies))}

    def restore(self, state: dict[str, Any]) -> None:
        device, entropies = self.counts.device, state["entropies"]
        own = entropies[min(distributed.rank(), len(entropies) - 1)]
        self.epoch, self.entropies = state["epoch"], [entropy.to(device) for entropy in own]
        for name in ("counts", "before", "now"):
            told = None if state[name] is None else state[name].to(device)
            first = told is None or distributed.first()  # all that was counted is the first one's
            setattr(self, name, told if first else torch.zeros_like(told))

    def _look(self, learner: Learner, batch: Batch) -> Seen:
        """The clean images in eval mode: one forward pass each, phase "scoring"."""
        forward, y = learner.ledger.counted(learner.model), batch.y
        catch = contextlib.nullcontext(None) if self.head is None else tapped(self.head)
        with _scoring(learner, y.device), catch as tap, uncompiled():
            logits = forward(batch.x)
        rows = None if tap is None else cross_entropy_rows(logits, y, tap.features, self.head)
        residual = rows.residuals[0] if rows else residuals(Standard(), y, {"clean": logits})["clean"]
        return Seen(-margin(logits, y), residual, batch.weights, rows)


class OfUpdates(Plain):
    """`UpdateSubset` over the epochs of a run on `source`.

    batch_size : of a step, where what is kept is queued. attack : whose ball the radius of what is kept is told in.
    """

    def __init__(self, rule: UpdateSubset, source: Source, batch_size: int, seed: int, attack: Attack):
        self.rule, self.source, self.batch_size, self.seed, self.attack = rule, source, batch_size, seed, attack
        self.waiting: tuple[Tensor, ...] | None = None
        self.epoch, self.part, self.kept, self.attacked = 0, 0.0, [], []

    def begin(self, epoch: int, accuracies: list[dict]) -> None:
        self.epoch, self.part = epoch, self.rule.share(epoch, accuracies)
        self.kept: list[Tensor] = []
        self.attacked: list[Tensor] = []

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        x, y, size = batch.x, batch.y, len(batch.y)
        if self.rule.reads is None:
            kept = self.rule.keep(self.part, None, batch.rule)
            attacked = self.rule.attacked(size)  # known, so that the device need not be asked
            plain, moved = kept.split([len(kept) - attacked, attacked])
            moved = moved - size
            images = torch.cat([x[plain], learner.perturbed(x[moved], y[moved], batch.attack.take(moved))])
        else:
            both = torch.cat([x, learner.perturbed(x, y, batch.attack)])
            with _scoring(learner, y.device):
                losses = learner.objective.loss(y.repeat(2), adversarial=learner.ledger.counted(learner.model)(both))
            kept = self.rule.keep(self.part, losses, batch.rule)
            images = both[kept]
        of = kept % size
        self.kept.append(batch.indices.to(of.device)[of])
        self.attacked.append(kept >= size)
        new = (images, y[of], batch.weights[of])
        return self._queued(learner, new, batch.where) if self.rule.queue else self._learn(learner, new, batch.where)

    def rest(self, learner: Learner) -> tuple[Tensor, int]:
        waiting, self.waiting = self.waiting, None
        if waiting is None or not len(waiting[1]):
            return super().rest(learner)
        return self._learn(learner, waiting, lambda: f"the end of epoch {self.epoch}")

    def end(self, learner: Learner) -> dict[str, Any]:
        """p_up : the share kept. clean, adversarial : shares of the two among the kept images. radius : of the smallest
        ball, by eighths of the attack's, in which the prediction flips, for some of the kept examples."""
        moved = float(torch.cat(self.attacked).double().mean())
        measured = {"radius": self._radius(learner)} if self.rule.probed else {}
        return {"p_up": self.part, "clean": 1 - moved, "adversarial": moved, **measured}

    def state(self) -> dict[str, Any]:
        told = {"epoch": self.epoch, "part": self.part, "kept": list(self.kept), "attacked": list(self.attacked)}
        return told | {"waiting": None if self.waiting is None else list(self.waiting)}

    def restore(self, state: dict[str, Any]) -> None:
        device = self.source.device
        self.epoch, self.part = state["epoch"], state["part"]
        self.kept, self.attacked = ([part.to(device) for part in state[name]] for name in ("kept", "attacked"))
        self.waiting = None if state["waiting"] is None else tuple(part.to(device) for part in state["waiting"])

    def _queued(self, learner: Learner, new: tuple[Tensor, ...], where: Callable) -> tuple[Tensor, int]:
        """Steps of a full batch each, as far as what waits allows; a last single image joins the one before."""
        waiting = (
            new if self.waiting is None else tuple(torch.cat(pair) for pair in zip(self.waiting, new, strict=True))
        )
        total, images, size = torch.zeros((), device=new[0].device), 0, self.batch_size
        while len(waiting[1]) >= size and len(waiting[1]) != size + 1:
            loss, _ = self._learn(learner, tuple(part[:size] for part in waiting), where)
            waiting, total, images = tuple(part[size:] for part in waiting), total + loss * size, images + size
        self.waiting = waiting
        return total / max(images, 1), images

    def _learn(self, learner: Learner, new: tuple[Tensor, ...], where: Callable) -> tuple[Tensor, int]:
        images, y, weights = new
        found = learner.update(lambda call: learner.loss(call, images, images, y, weights), images.device, where)
        return found, len(y)

    def _radius(self, learner: Learner) -> dict[str, Any]:
        """Of `probed` kept examples, evenly chosen, on the plain view."""
        kept = torch.cat(self.kept).unique()
        chosen = kept[:: max(1, len(kept) // self.rule.probed)][: self.rule.probed].cpu()
        stream = Stream(seed=self.seed, purpose="radius", epoch=self.epoch)
        found = smallest_radius(learner.model, self.source, self.attack, chosen, stream=stream, ledger=learner.ledger)
        flipped = torch.isfinite(found)
        mean = float(found[flipped].mean()) if bool(flipped.any()) else None
        return {"n": len(found), "flipped": float(flipped.double().mean()), "mean": mean}


def _of_all(weights: Tensor, normalise: str) -> tuple[float, int]:
    """What this process's mean over its picks' `weights` counts for, where the mean over the processes is to be that
    over all picks; and how many these are."""
    own = float(weights.sum()) if normalise == "batch" else float(len(weights))
    whole, images = distributed.summed([own, float(len(weights))])
    return distributed.size() * own / whole, int(images)


@contextlib.contextmanager
def _scoring(learner: Learner, device: torch.device) -> Iterator[None]:
    """Eval mode, no gradients, phase "scoring"; BatchNorm sees nothing."""
    with learner.ledger.phase("scoring", device), borrow(learner.model, training=False), torch.no_grad():
        yield


def follow(
    rule: Rule | None,
    model: nn.Module,
    source: Source,
    *,
    attack: Attack | None,
    batch_size: int,
    seed: int = 0,
    head: str | None = None,
) -> Plain:
    """The rule's state over a run; `head` names the last linear layer, None finds it."""
    if rule is None:
        return Plain()
    if isinstance(rule, UpdateSubset):
        return OfUpdates(rule, source, batch_size, seed, attack)
    layer = None
    if rule.reads == "features":
        with borrow(model, training=False):
            layer = find_head(model, first_images(model, source), head)
    return OfAttacks(rule, len(source), source.device, layer)


def refuse_one_image(rule: Rule, model: nn.Module, source: Source, smallest: int) -> None:
    """Raise ConfigError if the rule may leave a single image of the `smallest` batch, and the model cannot learn from
    one, because BatchNorm has no spread to see."""
    if learned(rule, smallest) > 1:
        return
    try:
        with preserved(), torch.no_grad():
            copy.deepcopy(model).train()(first_images(model, source)[:1])
    except ValueError as error:
        part = "rho" if isinstance(rule, AttackSubset) else "p_up"
        why = f"it leaves one image of a batch of {smallest}, and the model cannot learn from one ({error})"
        raise ConfigError(must(f"minibatch.{part}", "larger", getattr(rule, part), why)) from None


def learned(rule: Rule, size: int) -> int:
    """The smallest number of images of a batch of `size` that a forward pass of the update may see."""
    return count(rule.rho, size) if isinstance(rule, AttackSubset) else count(rule.least, 2 * size)


def rule_problem(rule: Rule | None, objective: Objective, epochs: int, normalise: str) -> str | None:
    """Why the rule cannot serve the objective, a run of so many epochs, or this form of the loss; None if it can."""
    if rule is None:
        return None
    name = type(objective).__name__.lower()
    if not attacked(objective):
        return must("minibatch", "null for an objective that is not attacked", name, "there is no attack to save")
    if rule.single_image and len(objective.passes) > 1:
        way_out = "use pgd, or a rule that chooses what to attack"
        return must("objective", "one with a loss of a single image for this minibatch rule", name, way_out)
    if rule.warm_up > epochs:
        return must("minibatch.warm_up", f"at most the {epochs} epochs that run", rule.warm_up)
    if normalise == "batch" and not rule.single_image and rule.correction != "none":
        way_out = "normalise: batch divides by the picked weights' own sum, which undoes it"
        return must("minibatch.correction", "none with training.normalise: batch", rule.correction, way_out)
    return None


def batch_units(rule: Rule | None, objective: Objective, attack: Attack | None, size: int, epoch: int) -> int:
    """Passes of one step on `size` examples; at most, where P_up adapts."""
    each = passes(objective, attack)
    if rule is None:
        return size * (each + 2 * len(objective.passes))
    if isinstance(rule, AttackSubset):
        clean = 2 * size if rule.clean else 0
        scoring = size if rule.scores(epoch, size) else 0
        return count(rule.rho, size) * (each + 2 * len(objective.passes)) + scoring + clean
    kept = count(rule.share(epoch, []), 2 * size)
    moved, scoring = (size, 2 * size) if rule.reads else (rule.attacked(size), 0)
    return moved * each + scoring + 2 * kept
