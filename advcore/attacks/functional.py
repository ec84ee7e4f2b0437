"""Attacks that change an image through the parameters of a map: a flow, a colour table, JPEG coefficients."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from advcore.attacks.base import Iterated, climb
from advcore.attacks.geometry import linf_start, linf_step
from advcore.rng import Stream
from advcore.settings import settings
from advcore.types import Loss


@settings
class Functional(Iterated):
    """PGD on the parameters p of a map, in the linf ball of radius eps, by signed steps; x_adv is `apply(x, p)`."""

    steps: int = 100
    widest: ClassVar[float] = 1e6

    def parameter_shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape (B, ...) of the parameters for images x."""
        raise NotImplementedError

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the images x changed by the parameters p; x itself at p = 0."""
        raise NotImplementedError

    def _attack_once(self, loss_fn: Loss, x: Tensor, generator: Stream) -> Tensor:
        parameters = climb(
            lambda p: loss_fn(self.apply(x, p)),
            linf_start(x.new_zeros(self.parameter_shape(x)), self.eps, generator),
            steps=self.steps,
            move=partial(linf_step, step_size=self.length),
            project=partial(torch.clamp, min=-self.eps, max=self.eps),
        )
        with torch.no_grad():
            return self.apply(x, parameters)
