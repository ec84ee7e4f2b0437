"""Training steps of BulletTrain: each example is attacked with the number of steps of its class."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from advcore.adversary import plan_attack
from advcore.attacks.base import Attack, to_full_precision
from advcore.attacks.pgd import PGD
from advcore.errors import SettingProblem, must
from advcore.minibatch.base import count
from advcore.minibatch.bullettrain import BulletTrain, measure_signed_variance
from advcore.objectives.base import Objective
from advcore.runtime.precision import get_speed
from advcore.shares import divide
from advcore.training.loop_settings import LoopSettings
from advcore.training.progress import Entry, Snapshot
from advcore.training.step import Batch, Forward, Learner, PlainStepper, enter_scoring
from advcore.training.whole_batch import find_attack_problem
from advcore.work import NO_WORK, Work


class BulletTrainStepper(PlainStepper):
    """Steps that attack outliers, boundary examples and robust ones by different numbers of steps.

    average : running average of the batches' robust accuracies. scores : (N,) running scores, NaN for an example that
    was not visited yet; None where scores are not smoothed. counts : of outliers, boundary examples and robust ones in
    this epoch, and of all their attack steps.
    """

    def __init__(self, rule: BulletTrain, size: int, device: torch.device) -> None:
        self.rule = rule
        self.average = 0.0
        self.counts = [0, 0, 0, 0]
        self.scores: Tensor | None = None
        if rule.smoothing:
            self.scores = torch.full((size,), float("nan"), device=device)

    def begin(self, epoch: int, entries: list[Entry]) -> None:
        self.counts = [0, 0, 0, 0]

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        assert isinstance(learner.attack, PGD), "`find_attack_problem` refuses others"
        clean = self._look(learner, batch)
        parts = self.rule.split(self._score(clean, batch), self.average)
        steps = self.rule.count_steps(parts, learner.attack.steps)
        self._count(*parts, steps)
        x_adv = attack_by_steps(self.rule, learner, batch, steps, clean)

        def compute_loss(forward: Forward) -> Tensor:
            watched = partial(self._note_accuracy, forward, x_adv, batch.y)
            return batch.factor * learner.loss(watched, batch.x, x_adv, batch.y, batch.weights)

        return learner.update(compute_loss, batch.x.device, batch.where), batch.images

    def _look(self, learner: Learner, batch: Batch) -> Tensor:
        """Return the logits (B, C) of the clean images: one forward pass in eval mode, in phase "scoring"."""
        forward = learner.ledger.count_passes(learner.model)
        with enter_scoring(learner, batch.x.device):
            return forward(batch.x)

    def _score(self, clean: Tensor, batch: Batch) -> Tensor:
        """Return the scores (B,) that classes are made of, mixed with those of earlier visits where these are kept."""
        scores = measure_signed_variance(clean, batch.y)
        if self.scores is None:
            return scores
        indices = batch.indices.to(scores.device)
        scores = self.rule.smooth(scores, self.scores[indices])
        self.scores = self.scores.index_copy(0, indices, scores)
        return scores

    def _note_accuracy(self, forward: Forward, x_adv: Tensor, y: Tensor, images: Tensor) -> Tensor:
        """Return the logits of images; of the attacked ones, take the robust accuracy into the running average."""
        logits = forward(images)
        if images is x_adv:
            accuracy = float((logits.detach().argmax(1) == y).double().mean())
            self.average = self.rule.update_average(self.average, accuracy)
        return logits

    def _count(self, *numbers: Tensor) -> None:
        sums = torch.stack([number.sum() for number in numbers]).tolist()
        self.counts = [total + number for total, number in zip(self.counts, sums, strict=True)]

    def summarize(self, learner: Learner) -> Entry:
        """Return the epoch's shares of outliers, boundary examples and robust ones, and the mean of attack steps.

        robust_accuracy : the running average by which examples are predicted to be robust, at the epoch's end.
        """
        *counts, steps = self.counts
        visits = sum(counts)
        outliers, boundary, robust = (divide(number, visits) for number in counts)
        return {
            "outliers": outliers,
            "boundary": boundary,
            "robust": robust,
            "mean_steps": divide(steps, visits),
            "robust_accuracy": self.average,
        }

    def state(self) -> Snapshot:
        return {"average": self.average, "counts": list(self.counts), "scores": self.scores}

    def restore(self, state: Snapshot) -> None:
        self.average = state["average"]
        self.counts = list(state["counts"])
        if self.scores is not None:
            self.scores = state["scores"].to(self.scores.device)


def weaken(rule: BulletTrain, attack: PGD, steps: int) -> PGD:
    """Return the attack with fewer steps, of the length `rule.weak_step`; the attack itself where it has no more."""
    if steps >= attack.steps:
        return attack
    return attack.with_settings(steps=steps, step_size=rule.weak_step * attack.eps or None)


def attack_by_steps(rule: BulletTrain, learner: Learner, batch: Batch, steps: Tensor, clean: Tensor) -> Tensor:
    """Return the batch's images, attacked by `steps` (B,) steps each; 0 leaves an image clean.

    clean : (B, C) logits of the images in eval mode. Examples of the same number of steps are attacked together, each
    by its own random numbers. Sizes of these groups vary, so no CUDA graph could be reused.
    """
    assert isinstance(learner.attack, PGD), "`find_attack_problem` refuses others"
    x_adv = to_full_precision(batch.x).clone()
    with replace(get_speed(), graphed=False).activate():
        for number in steps.unique().tolist():
            if not number:
                continue
            i = (steps == number).nonzero()[:, 0]
            group = replace(learner, attack=weaken(rule, learner.attack, number))
            x_adv[i] = group.perturb(batch.x[i], batch.y[i], batch.attack_stream.take(i), clean=clean[i])
    return x_adv


def plan_bullettrain(rule: BulletTrain, objective: Objective, attack: Attack | None, size: int) -> Work:
    """Count the most passes that a batch of `size` can take: as many examples as may be are near the boundary.

    The others take the larger of the two smaller numbers of steps.
    """
    assert isinstance(attack, PGD), "`find_attack_problem` refuses others"
    weak = _plan_attack(rule, objective, attack, max(rule.robust_steps, rule.outlier_steps))
    boundary = count(rule.most, size)
    attacked = boundary * _plan_attack(rule, objective, attack, attack.steps) + (size - boundary) * weak
    updates = len(objective.passes) * size
    return Work(forward=size) + attacked + Work(forward=updates, to_weights=updates)


def _plan_attack(rule: BulletTrain, objective: Objective, attack: PGD, steps: int) -> Work:
    """Count the passes per example of the attack by this number of steps, where the clean logits are known."""
    if not steps:
        return NO_WORK
    return plan_attack(objective, weaken(rule, attack, steps), clean_known=True)


def find_bullettrain_problem(rule: BulletTrain, attack: Attack | None, training: LoopSettings) -> SettingProblem | None:
    """Return why a run cannot choose the steps of each example; None if it can."""
    if training.attack_mode != "eval":
        way_out = "a group's size would change BatchNorm's statistics, and with them the attack"
        return must("training.attack_mode", "eval with minibatch: bullettrain", training.attack_mode, way_out)
    return find_attack_problem(rule, attack, "bullettrain")
