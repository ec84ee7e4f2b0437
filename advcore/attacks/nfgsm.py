"""N-FGSM: one signed step from a noisy image, not projected onto the ball; for training."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from advcore.attacks.base import climb, to_full_precision
from advcore.attacks.geometry import draw_linf, step_linf
from advcore.attacks.single_step import SingleStep
from advcore.errors import SettingProblem, check_within
from advcore.rng import Stream
from advcore.settings import setting, settings
from advcore.types import Loss
from advcore.unit_range import check_attackable


@settings
class NFGSM(SingleStep):
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
    training_only: ClassVar[bool] = True

    described_settings: ClassVar[tuple[str, ...]] = ("noise",)

    def _check_more(self) -> list[SettingProblem | None]:
        return [
            check_within("noise", self.noise, low=0, high=100),
            self._check_step_size(),
        ]

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
