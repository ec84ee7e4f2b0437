"""One weighted update: attack in the given mode, learn in train mode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import bound, perturb
from advcore.attacks.base import Attack
from advcore.attacks.memory import Perturbations
from advcore.borrow import borrow
from advcore.cost import CostLedger
from advcore.errors import NonFiniteError
from advcore.objectives.base import Objective
from advcore.rng import Stream


def weighted_mean(losses: Tensor, weights: Tensor, normalise: str) -> Tensor:
    """The only place per-example losses (B,) are reduced: mean(w l), or sum(w l) / sum(w) for "batch"."""
    if normalise == "batch":
        return (weights * losses).sum() / weights.sum()
    return (weights * losses).mean()


def part_of_mean(own: Tensor, weights: Tensor, batch: Tensor, normalise: str) -> float:
    """What one process's mean over the weights `own` counts for, so that the mean over the processes is the mean over
    the whole `batch` of indices into `weights`. 1 where it does the whole batch."""
    if len(own) == len(batch):
        return 1.0
    if normalise == "batch":
        return distributed.size() * float(own.sum() / weights[batch.to(weights.device)].sum())
    return distributed.size() * len(own) / len(batch)


class Gate:
    """Keeps what is not finite out without waiting for the device: from the first such step on none is applied, and
    `look` tells of it. For optimisers with a fused step."""

    OFTEN = 256  # steps after which it looks by itself

    def __init__(self, device: torch.device):
        self._shut = torch.zeros((), device=device)
        self._first = torch.zeros((), dtype=torch.long, device=device)
        self._wheres: list[Callable[[], Any]] = []

    def step(self, optimizer: torch.optim.Optimizer, finite: Tensor, where: Callable[[], Any]) -> None:
        """`optimizer.step()`, if this and all before were `finite` (a bool on the device)."""
        self._first = torch.where(self._shut > 0, self._first, len(self._wheres))
        self._shut = torch.maximum(self._shut, (~finite).to(self._shut))
        self._wheres.append(where)
        optimizer.grad_scale, optimizer.found_inf = None, self._shut  # as torch.amp.GradScaler tells a fused step
        optimizer.step()
        if len(self._wheres) >= self.OFTEN:
            self.look()

    def look(self) -> None:
        """Raise NonFiniteError if a step was not finite; waits for the device."""
        if self._wheres and bool(self._shut):
            raise NonFiniteError(
                f"loss or gradient is NaN or infinite at {self._wheres[int(self._first)]()}; {_NOTHING}"
            )
        self._wheres.clear()


_NOTHING = "nothing was applied"


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What all steps of a run share, and the halves that a step is made of.

    objective, attack, normalise, attack_mode, clip_norm, clip_value : as `Trainer` has them. optimizer : of the model.
    ledger : counts the passes.
    memory : of where the attack ended, if it starts there; what `attack` recalls from.
    gate : looks at whether steps are finite later; None: at once.
    parallel : the model with its gradients averaged over several processes; None where there is one.
    on_update : called after each optimiser step.
    """

    model: nn.Module
    objective: Objective
    attack: Attack | None
    optimizer: torch.optim.Optimizer
    ledger: CostLedger
    normalise: str = "coreset"
    attack_mode: str = "eval"
    clip_norm: float | None = None
    clip_value: float | None = None
    memory: Perturbations | None = None
    gate: Gate | None = None
    parallel: nn.Module | None = None
    on_update: Callable[[], None] = lambda: None

    def perturbed(self, x: Tensor, y: Tensor, generator: Stream) -> Tensor:
        """x_adv (B, C, H, W); B may be 0."""
        if not len(x):
            return x
        forward = self.ledger.counted(self.model)
        with self.ledger.phase("attack", x.device), borrow(self.model, training=self.attack_mode == "train"):
            attack = bound(self.attack, self.model, self.ledger.counted)
            x_adv = perturb(forward, self.objective, attack, x, y, generator=generator)
            if self.memory is not None:
                self.memory.keep(*distributed.joint(x, x_adv, generator.indices))
            return x_adv

    def loss(self, forward: Callable, clean: Tensor, adversarial: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """The weighted objective at B examples, clean and attacked."""
        inputs = {"clean": clean, "adversarial": adversarial}
        logits = {name: forward(inputs[name]) for name in self.objective.passes}
        return weighted_mean(self.objective.loss(y, **logits), weights, self.normalise)

    def update(self, loss_of: Callable[[Callable], Tensor], device: torch.device, where: Callable[[], Any]) -> Tensor:
        """One optimiser step on `loss_of(forward)`, in train mode; that loss, detached. Of several processes' losses,
        the step is on the mean.

        A loss or gradient that is not finite raises NonFiniteError, which says `where()`, and changes no weight;
        BatchNorm's running statistics have seen the batch by then.
        """
        with self.ledger.phase("update", device):
            self.model.train()
            with distributed.reducing():
                loss = loss_of(self.ledger.counted(self.parallel or self.model))
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm([p.grad for p in parameters])
            if self.clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
            finite = torch.isfinite(loss) & torch.isfinite(norm)
            if self.gate is None and not distributed.everywhere(bool(finite)):
                self.optimizer.zero_grad(set_to_none=True)
                raise NonFiniteError(
                    f"loss {loss.item():.4g} and gradient norm {norm.item():.4g} at {where()}; {_NOTHING}"
                )
            if self.clip_value:
                nn.utils.clip_grad_value_(parameters, self.clip_value)
            if self.gate is None:
                self.optimizer.step()
            else:
                self.gate.step(self.optimizer, finite, where)
            if self.parallel is not None:
                distributed.average(list(self.model.buffers()))
        self.on_update()
        return loss.detach()


def step(
    learner: Learner,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    *,
    generator: Stream,
    where: Callable[[], Any] = lambda: "",
    factor: float = 1.0,
) -> Tensor:
    """Attack x (B, C, H, W), then one optimiser step on `factor` times the weighted loss; returns that, detached.

    Cost: the attack, then one forward and one backward pass for each of the objective's passes.
    """
    x_adv = learner.perturbed(x, y, generator)
    return learner.update(lambda forward: factor * learner.loss(forward, x, x_adv, y, weights), x.device, where)
