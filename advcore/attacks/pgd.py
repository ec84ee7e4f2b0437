"""Projected gradient ascent in a ball; one step of it is FGSM."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from advcore.attacks.base import input_gradient
from advcore.attacks.geometry import L2, LINF, Geometry
from advcore.errors import at_least, one_of, positive, require, within
from advcore.rng import Stream
from advcore.types import Loss, settings

STARTS = ("uniform", "gaussian", "clean")
_MOST_PIXELS = 1e12  # before the data are seen
_GAUSSIAN_START = 1e-3  # TRADES (Zhang et al. 2019), trades.py


def climb(
    loss_fn: Loss,
    start: Tensor,
    *,
    steps: int,
    move: Callable[[Tensor, Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
) -> Tensor:
    """`steps` times: move along the gradient of the per-example loss, then project. The one loop of every PGD."""
    x_adv = project(start)
    for _ in range(steps):
        _, gradient = input_gradient(loss_fn, x_adv)
        x_adv = project(move(x_adv, gradient))
    return x_adv.detach()


@settings
class PGD:
    """Settings and behaviour that the balls share.

    Parameters
    ----------
    eps : radius of the ball around the clean image, in [0, 1] pixel units.
    steps : ascent steps.
    step_size : length of a step in the ball's norm, same units; None means 2.5 eps / steps.
    restarts : independent starts; each example keeps the one with the highest loss.
    start : "uniform" in the ball, "gaussian" (x + 0.001 N(0, 1), TRADES), or "clean".

    Raises ConfigError for values out of range. Cost: `steps` forward and backward passes an example and
    restart, and one forward more a restart when there are several.
    Reference: Madry et al. 2018, section 2.1; Goodfellow et al. 2015 for one step.
    Differs: the l2 start is uniform in the ball, not per pixel far outside of it.
    """

    eps: float
    steps: int = 10
    step_size: float | None = None
    restarts: int = 1
    start: str = "uniform"
    climbs: ClassVar[str] = "own"
    training_only: ClassVar[bool] = False
    norm: ClassVar[str]
    geometry: ClassVar[Geometry]

    def __post_init__(self):
        require(
            self._eps_problem(_MOST_PIXELS),
            at_least("steps", self.steps, 1),
            None
            if self.step_size is None
            else positive("step_size", self.step_size, "leave it out for 2.5 eps / steps"),
            at_least("restarts", self.restarts, 1),
            one_of("start", self.start, STARTS),
        )

    def problem(self, shape: tuple[int, int, int]) -> str | None:
        return self._eps_problem(math.prod(shape))

    def _eps_problem(self, pixels: float) -> str | None:
        largest = self.geometry.diameter(pixels)
        way_out = (
            ""
            if not isinstance(self.eps, (int, float))
            else f"pixels are in [0, 1], and eps counts in the same units: write {self.eps:g}/255"
        )
        return within("eps", self.eps, 0, round(largest, 4), way_out)

    @property
    def length(self) -> float:
        """Length of a step."""
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

    def __call__(self, loss_fn: Loss, x: Tensor, *, generator: Stream) -> Tensor:
        x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        tries = [self._once(loss_fn, x, generator.child("restart", r)) for r in range(self.restarts)]
        if self.restarts == 1:
            return tries[0]
        with torch.no_grad():
            losses = torch.stack([loss_fn(x_adv) for x_adv in tries])
        return torch.stack(tries)[losses.argmax(0), torch.arange(len(x), device=x.device)]

    def _once(self, loss_fn: Loss, x: Tensor, generator: Stream) -> Tensor:
        return climb(
            loss_fn,
            self._begin(x, generator),
            steps=self.steps,
            move=lambda x_adv, gradient: self.geometry.step(x_adv, gradient, self.length),
            project=lambda x_adv: self.geometry.project(x_adv, x, self.eps),
        )

    def _begin(self, x: Tensor, generator: Stream) -> Tensor:
        if self.start == "uniform":
            return self.geometry.start(x, self.eps, generator)
        if self.start == "gaussian":
            return x + _GAUSSIAN_START * generator.normal(tuple(x.shape)).to(x)
        return x

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return self.geometry.distance(x, x_adv) - self.eps

    def scaled(self, fraction: float) -> "PGD":
        return replace(self, eps=self.eps * fraction, step_size=self.length * fraction or None)

    def passes(self) -> tuple[int, int]:
        forward = self.restarts * self.steps
        return forward + (self.restarts if self.restarts > 1 else 0), forward

    def describe(self) -> dict:
        return {
            "norm": self.norm,
            "eps": self.eps,
            "steps": self.steps,
            "step_size": self.length,
            "restarts": self.restarts,
            "start": self.start,
        }


@settings
class LinfPGD(PGD):
    """PGD in the linf ball, by signed steps; see `PGD` for its settings."""

    norm: ClassVar[str] = "linf"
    geometry: ClassVar[Geometry] = LINF


@settings
class L2PGD(PGD):
    """PGD in the l2 ball, by normalised steps; see `PGD` for its settings."""

    norm: ClassVar[str] = "l2"
    geometry: ClassVar[Geometry] = L2
