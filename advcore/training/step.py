"""One weighted update: attack in the given mode, learn in train mode."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from advcore.adversary import bound, perturb
from advcore.attacks.base import Attack
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


def step(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    *,
    objective: Objective,
    attack: Attack | None,
    optimizer: torch.optim.Optimizer,
    generator: Stream,
    ledger: CostLedger,
    normalise: str = "coreset",
    attack_mode: str = "eval",
    clip_norm: float | None = None,
    clip_value: float | None = None,
    where: Callable[[], Any] = lambda: "",
) -> Tensor:
    """Attack x (B, C, H, W), then one optimiser step on the weighted loss; returns that loss, detached.

    A loss or gradient that is not finite raises NonFiniteError, which says `where()`, and changes no weight;
    BatchNorm's running statistics have seen the batch by then.
    Cost: the attack, then one forward and one backward pass for each of the objective's passes.
    """
    forward = ledger.counted(model)
    with ledger.phase("attack", x.device), borrow(model, training=attack_mode == "train"):
        x_adv = perturb(forward, objective, bound(attack, model, ledger.counted), x, y, generator=generator)
    with ledger.phase("update", x.device):
        model.train()
        inputs = {"clean": x, "adversarial": x_adv}
        logits = {name: forward(inputs[name]) for name in objective.passes}
        loss = weighted_mean(objective.loss(y, **logits), weights, normalise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for p in model.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, clip_norm if clip_norm else float("inf"))
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError(
                f"loss {loss.item():.4g} and gradient norm {norm.item():.4g} at {where()}; nothing was applied"
            )
        if clip_value:
            nn.utils.clip_grad_value_(parameters, clip_value)
        optimizer.step()
    return loss.detach()
