"""What an attack is, and what every attack shares."""

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from advcore.rng import Stream
from advcore.types import Loss


class Attack(Protocol):
    """Frozen settings; `attack(loss_fn, x, generator=...)` gives x_adv inside [0, 1] and, unless
    `training_only`, inside the ball of its threat model.

    climbs : name of the loss it wants from the objective (`objectives.base.ascent`).
    norm : of its threat model, for records.
    training_only : exempt from the ball (never from [0, 1]); not fit for evaluation.
    """

    climbs: ClassVar[str]
    norm: ClassVar[str]
    training_only: ClassVar[bool]

    def __call__(self, loss_fn: Loss, x: Tensor, *, generator: Stream) -> Tensor:
        """`x` (B, C, H, W) in [0, 1] to x_adv of the same shape; `generator` is bound to the B examples."""

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """(B,) float64: how far x_adv is outside the ball around x; at most 0 inside."""

    def scaled(self, fraction: float) -> "Attack":
        """The same attack in a ball `fraction` as large, for a ramp over the first epochs."""

    def passes(self) -> tuple[int, int]:
        """Forward and backward passes an example costs."""

    def problem(self, shape: tuple[int, int, int]) -> str | None:
        """What is wrong with these settings for images of `shape` (C, H, W), or None."""

    def describe(self) -> dict:
        """norm, eps, steps, step_size, restarts: what a robust number has to say."""


def input_gradient(loss_fn: Loss, x: Tensor) -> tuple[Tensor, Tensor]:
    """Per-example losses (B,) and the gradient of each with respect to its own input (B, ...).

    The losses are summed, so an example's gradient does not depend on the size of its batch.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        losses = loss_fn(x)
        (gradient,) = torch.autograd.grad(losses.sum(), x)
    return losses.detach(), gradient
