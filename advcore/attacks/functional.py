"""Attacks that change an image through the parameters of a map: a flow, a colour table, JPEG coefficients."""

from abc import abstractmethod
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from advcore.attacks.base import Iterated, climb
from advcore.attacks.geometry import draw_linf, step_linf
from advcore.rng import Stream
from advcore.settings import setting, settings
from advcore.types import Loss


@settings
class Functional(Iterated):
    """PGD on the parameters p of a map, in the linf ball of radius eps, by signed steps; x_adv is `apply(x, p)`."""

    steps: int = setting(default=100, unit="steps")
    widest: ClassVar[float] = 1e6

    @abstractmethod
    def choose_shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape (B, ...) of the parameters for images x."""

    @abstractmethod
    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the images x changed by the parameters p; x itself at p = 0."""

    def _attack_once(self, loss_fn: Loss, x: Tensor, generator: Stream) -> Tensor:
        parameters = climb(
            lambda p: loss_fn(self.apply(x, p)),
            draw_linf(x.new_zeros(self.choose_shape(x)), self.eps, generator),
            steps=self.steps,
            move=partial(step_linf, step_size=self.length),
            project=partial(torch.clamp, min=-self.eps, max=self.eps),
        )
        with torch.no_grad():
            return self.apply(x, parameters)
