"""Training steps of Free AT: each batch is replayed, and its images move by the gradients of the updates."""

import torch
from torch import Tensor

from advcore.attacks.base import Attack, to_full_precision
from advcore.attacks.pgd import PGD
from advcore.errors import SettingProblem, must
from advcore.minibatch.free import Free
from advcore.objectives.base import Objective
from advcore.training.loop_settings import LoopSettings
from advcore.training.progress import Entry, Snapshot
from advcore.training.step import Batch, Forward, Learner, PlainStepper
from advcore.training.whole_batch import find_attack_problem
from advcore.work import Work


class FreeStepper(PlainStepper):
    """Steps that update the weights `rule.replays` times on a batch, and move its images after each of them.

    carried : (B, C, H, W) perturbations with which the last batch ended, by position in a batch, of the largest batch
    so far; None before the first. distances : mean norm of each batch's perturbations after its last replay, in this
    epoch.
    """

    def __init__(self, rule: Free, device: torch.device) -> None:
        self.rule = rule
        self.device = device
        self.carried: Tensor | None = None
        self.distances: list[Tensor] = []

    def begin(self, epoch: int, entries: list[Entry]) -> None:
        self.distances = []

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        attack = learner.attack
        assert isinstance(attack, PGD), "`find_attack_problem` refuses others"
        x = to_full_precision(batch.x)
        x_adv = attack.geometry.project(self._start(x), x, attack.eps)
        total = torch.zeros((), device=x.device)
        for replay in range(self.rule.replays):
            batch.set_lr(replay / self.rule.replays)
            loss, gradient = self._learn(learner, batch, x_adv)
            moved = attack.geometry.step(x_adv, gradient, self.rule.step * attack.eps)
            x_adv = attack.geometry.project(moved, x, attack.eps)
            total = total + loss
        self._carry(x_adv - x)
        self.distances.append(attack.geometry.distance(x, x_adv).mean())
        return total / self.rule.replays, batch.images

    def _learn(self, learner: Learner, batch: Batch, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Take one optimiser step on images x_adv, and return the loss and by what gradients the images climb theirs.

        The weights of the batch's loss only scale an example's gradient, or turn it round where they are negative.
        """
        images = x_adv.detach().clone().requires_grad_(True)

        def compute_loss(forward: Forward) -> Tensor:
            watched = learner.watch.watch(forward)
            return batch.factor * learner.loss(watched, images, images, batch.y, batch.weights)

        loss = learner.update(compute_loss, images.device, batch.where)
        learner.watch.refuse_training(learner.model, learner.attack, images, batch.y)
        gradient = torch.zeros_like(images) if images.grad is None else images.grad
        return loss, gradient * batch.weights.sign().view(-1, 1, 1, 1)

    def _start(self, x: Tensor) -> Tensor:
        """Return the images x (B, C, H, W) with the perturbations that were carried on to their positions."""
        if self.carried is None:
            return x
        carried = self.carried[: len(x)]
        return torch.cat([x[: len(carried)] + carried, x[len(carried) :]])

    def _carry(self, perturbations: Tensor) -> None:
        """Keep the batch's perturbations for the next; positions behind the batch keep theirs."""
        if self.carried is not None:
            perturbations = torch.cat([perturbations, self.carried[len(perturbations) :]])
        self.carried = perturbations

    def summarize(self, learner: Learner) -> Entry:
        """Return replays, the updates taken, and the mean norm (distance) of the perturbations that were carried on."""
        return {
            "replays": self.rule.replays,
            "updates": self.rule.replays * len(self.distances),
            "distance": float(torch.stack(self.distances).mean()),
        }

    def state(self) -> Snapshot:
        return {"carried": self.carried, "distances": list(self.distances)}

    def restore(self, state: Snapshot) -> None:
        carried = state["carried"]
        self.carried = None if carried is None else carried.to(self.device)
        self.distances = [distance.to(self.device) for distance in state["distances"]]


def plan_free(rule: Free, objective: Objective, attack: Attack | None, size: int) -> Work:
    """Count the passes of a batch of `size`: one forward and one backward pass per example and replay."""
    return rule.replays * size * Work(forward=1, to_both=1)


def find_free_problem(rule: Free, attack: Attack | None, training: LoopSettings) -> SettingProblem | None:
    """Return why a run cannot replay its batches; None if it can."""
    if training.head_epochs:
        way_out = "the images move by the gradients of all weights' updates"
        return must("training.head_epochs", "0 with minibatch: free", training.head_epochs, way_out)
    schedule = getattr(training, "attack_steps", None)
    if schedule is not None:
        return must("training.attack_steps", "null with minibatch: free", schedule, "each replay takes one step")
    return find_attack_problem(rule, attack, "free")
