"""N-FGSM: one signed step from a noisy image, not projected onto the ball; for training."""

from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor

from advcore.attacks.base import Attack, climb, to_full_precision
from advcore.attacks.geometry import draw_linf, measure_linf, step_linf
from advcore.attacks.pgd import LinfPGD, check_radius
from advcore.errors import SettingProblem, check_positive, check_within, unless
from advcore.rng import Stream
from advcore.settings import setting, settings
from advcore.types import Loss
from advcore.unit_range import check_attackable


@settings
class NFGSM(Attack):
    """Uniform noise of `noise` eps, then a signed step of `step_size`; cut to [0, 1] only. For training.

    Parameters
    ----------
    eps : radius of the linf ball to train for, in [0, 1] pixel units.
    noise : half width of the noise, in eps, in [0, 100].
    step_size : length of the step, in pixel units, above 0; None means eps.

    Cost: one forward and one backward pass per example. Reference: de Jorge et al. 2022, algorithm 1.
    """

    eps: float = setting(unit="pixels")
    noise: float = setting(default=2.0, unit="eps")
    step_size: float | None = setting(default=None, unit="as eps")
    norm: ClassVar[str] = "linf"
    training_only: ClassVar[bool] = True
    few_steps: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    example: ClassVar = {"eps": 8 / 255}

    def _check_eps(self) -> SettingProblem | None:
        return check_radius(self.eps, 1.0)

    def _check_more(self) -> list[SettingProblem | None]:
        return [
            check_within("noise", self.noise, low=0, high=100),
            unless(self.step_size is None, check_positive("step_size", self.step_size, "leave it out for eps")),
        ]

    @property
    def length(self) -> float:
        """Length of the step, in pixel units."""
        return self.eps if self.step_size is None else self.step_size

    def __call__(self, loss_fn: Loss, x: Tensor, *, generator: Stream) -> Tensor:
        check_attackable(x)
        x = to_full_precision(x)
        return climb(
            loss_fn,
            draw_linf(x, self.noise * self.eps, generator),
            steps=1,
            move=partial(step_linf, step_size=self.length),
            project=partial(torch.clamp, min=0, max=1),
        )

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return measure_linf(x, x_adv) - self.eps

    def scale(self, fraction: float) -> Self:
        return self.with_settings(eps=self.eps * fraction, step_size=self.length * fraction or None)

    def passes(self) -> tuple[int, int]:
        return 1, 1

    def reference(self, steps: int) -> LinfPGD:
        return LinfPGD(eps=self.eps, steps=steps)

    def probe(self) -> LinfPGD:
        return self.reference(1).probe()

    def describe(self) -> dict[str, object]:
        return {
            "norm": self.norm,
            "eps": self.eps,
            "steps": 1,
            "step_size": self.length,
            "restarts": 1,
            "noise": self.noise,
        }
