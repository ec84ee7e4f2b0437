"""What an attack is, and what every attack shares."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from advcore.errors import at_least, require, within
from advcore.rng import Stream
from advcore.types import Loss, settings

_ENOUGH = 4  # steps that can judge a model trained with them
_PROBE = 10  # steps that judge where there are fewer


class Attack(Protocol):
    """Frozen settings; `attack(loss_fn, x, generator=...)` gives x_adv inside [0, 1] and, unless
    `training_only`, inside the ball of its threat model.

    climbs : name of the loss it wants from the objective (`objectives.base.ascent`).
    norm : of its threat model, for records.
    training_only : exempt from the ball (never from [0, 1]); not fit for evaluation.
    probes_outside : whether it asks for the loss outside its ball, so that only what it returns counts against a model.
    restarts : independent starts.
    remembers : whether it starts where it ended before (`recalling`); not fit for evaluation.
    few_steps : whether it has too few steps to judge a model that was trained with it, which may have learned to resist
        just these; `probe` has more.
    elementwise : whether it moves each pixel by that pixel's gradient alone, so that images may lie in any layout. An
        attack without this attribute is given images as they lie.
    """

    climbs: ClassVar[str]
    norm: ClassVar[str]
    training_only: bool
    probes_outside: ClassVar[bool]
    restarts: int
    remembers: bool
    few_steps: bool
    elementwise: ClassVar[bool]

    def __call__(self, loss_fn: Loss, x: Tensor, *, generator: Stream) -> Tensor:
        """`x` (B, C, H, W) in [0, 1] to x_adv of the same shape; `generator` is bound to the B examples."""

    def bind(self, model: nn.Module, counted: Callable[[nn.Module], Any]) -> "Attack":
        """The same attack with what it needs of the model; most need nothing. `counted` wraps a network so that its
        passes are counted."""

    def recalling(self, memory: Any) -> "Attack":
        """The same attack with the `Perturbations` that it starts from, if it `remembers`; None: it starts anew."""

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """(B,) float64: how far x_adv is outside the ball around x; at most 0 inside."""

    def changed(self, **changes: Any) -> "Attack":
        """With other settings; what it was bound to stays."""

    def scaled(self, fraction: float) -> "Attack":
        """The same attack in a ball `fraction` as large, for a ramp over the first epochs."""

    def passes(self) -> tuple[int, int]:
        """Forward and backward passes an example costs; at most, where that depends on the example."""

    def reference(self, steps: int) -> "Attack":
        """The attack of the run that relative costs compare with: `steps` steps, one restart."""

    def probe(self) -> "Attack":
        """The attack that judges a model trained with this one: inside the ball, and of several steps."""

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
        gradient = gradient_of(losses.sum(), x)
    return losses.detach(), gradient


def gradient_of(value: Tensor, x: Tensor, **how: Any) -> Tensor:
    """torch.autograd.grad(value, x, **how) as one tensor; zeros where nothing leads from x to `value`, as in a model
    that rounds to whole numbers or detaches its input (which `evaluation.checks` calls masked)."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(value, x, allow_unused=True, materialize_grads=True, **how)[0]


def to_full_precision(x: Tensor) -> Tensor:
    """A constant in float32 or wider: half precision cannot hold a point of a ball."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


@settings
class Bounded:
    """What attacks in a ball share.

    Parameters
    ----------
    eps : radius of the ball, in its own units, >= 0.
    """

    eps: float
    climbs: ClassVar[str] = "own"
    training_only: ClassVar[bool] = False
    probes_outside: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    few_steps: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    restarts = 1  # not annotated: where it is a setting, its place among the settings is that class's
    norm: ClassVar[str]
    widest: ClassVar[float]  # the largest eps that means anything

    def __post_init__(self):
        require(self._eps_problem(), *self._more_problems())

    def _eps_problem(self) -> str | None:
        return within("eps", self.eps, 0, self.widest)

    def _more_problems(self) -> list[str | None]:
        """What a subclass's own settings may have wrong."""
        return []

    def problem(self, shape: tuple[int, int, int]) -> str | None:
        return None

    def bind(self, model: nn.Module, counted: Callable[[nn.Module], Any]) -> "Bounded":
        return self

    def recalling(self, memory: Any) -> "Bounded":
        return self

    def probe(self) -> "Bounded":
        return self

    def changed(self, **changes: Any) -> "Bounded":
        new = replace(self, **changes)
        new.__dict__.update({name: value for name, value in self.__dict__.items() if name.startswith("_")})
        return new

    def scaled(self, fraction: float) -> "Bounded":
        return self.changed(eps=self.eps * fraction)


@settings
class Iterated(Bounded):
    """Settings and behaviour of attacks that climb step by step, from one or several starts.

    Parameters
    ----------
    steps : ascent steps, at least 1.
    restarts : independent starts, at least 1; each example keeps the one with the highest loss.
    """

    steps: int = 10
    restarts: int = 1

    def _more_problems(self) -> list[str | None]:
        return [at_least("steps", self.steps, 1), at_least("restarts", self.restarts, 1)]

    def __call__(self, loss_fn: Loss, x: Tensor, *, generator: Stream) -> Tensor:
        x = to_full_precision(x)
        tries = [self._once(loss_fn, x, generator.child("restart", r)) for r in range(self.restarts)]
        if self.restarts == 1:
            return tries[0]
        with torch.no_grad():
            losses = torch.stack([loss_fn(x_adv) for x_adv in tries])
        return torch.stack(tries)[losses.argmax(0), torch.arange(len(x), device=x.device)]

    def _once(self, loss_fn: Loss, x: Tensor, generator: Stream) -> Tensor:
        """One start's x_adv."""
        raise NotImplementedError

    def reference(self, steps: int) -> "Iterated":
        return self.changed(steps=steps, restarts=1)

    @property
    def few_steps(self) -> bool:
        return self.steps < _ENOUGH

    def probe(self) -> "Iterated":
        return self.changed(steps=_PROBE) if self.few_steps else self

    def passes(self) -> tuple[int, int]:
        forward, backward = self._passes_once()
        return self.restarts * forward + (self.restarts if self.restarts > 1 else 0), self.restarts * backward

    def _passes_once(self) -> tuple[int, int]:
        """Of one start: a forward and a backward pass a step."""
        return self.steps, self.steps

    @property
    def length(self) -> float:
        """Length of a step."""
        return 2.5 * self.eps / self.steps

    def describe(self) -> dict:
        return {
            "norm": self.norm,
            "eps": self.eps,
            "steps": self.steps,
            "step_size": self.length,
            "restarts": self.restarts,
        }


def climb(
    loss_fn: Loss,
    start: Tensor,
    *,
    steps: int,
    move: Callable[[Tensor, Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
) -> Tensor:
    """`steps` times: move along the gradient of the per-example loss, then project. The one loop of every PGD.

    move : (x_adv, gradient), both (B, ...), to the next point. project : that point to the ball. Cost: one forward and
    one backward pass an example and step.
    """
    x_adv = project(start)
    for _ in range(steps):
        _, gradient = input_gradient(loss_fn, x_adv)
        x_adv = project(move(x_adv, gradient))
    return x_adv.detach()
