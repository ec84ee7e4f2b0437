"""Attacks that change an image through the parameters of a map: a flow, a colour table, JPEG coefficients."""

from typing import ClassVar

import torch
from torch import Tensor

from advcore.attacks.base import Iterated, climb
from advcore.attacks.geometry import linf_start, linf_step
from advcore.rng import Stream
from advcore.types import Loss, settings


@settings
class Functional(Iterated):
    """PGD on a map's parameters p in the linf ball of radius eps, by signed steps; x_adv is `applied(x, p)`."""

    steps: int = 100
    widest: ClassVar[float] = 1e6

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Of the parameters for images x, (B, ...)."""
        raise NotImplementedError

    def applied(self, x: Tensor, p: Tensor) -> Tensor:
        """The images that parameters p make of x; x itself at p = 0."""
        raise NotImplementedError

    def _once(self, loss_fn: Loss, x: Tensor, generator: Stream) -> Tensor:
        found = climb(
            lambda p: loss_fn(self.applied(x, p)),
            linf_start(x.new_zeros(self.shape(x)), self.eps, generator),
            steps=self.steps,
            move=lambda p, gradient: linf_step(p, gradient, self.length),
            project=lambda p: p.clamp(-self.eps, self.eps),
        )
        with torch.no_grad():
            return self.applied(x, found)
