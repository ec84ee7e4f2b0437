"""What rules that train on part of an epoch's examples share."""

from typing import ClassVar

import torch
from torch import Tensor

from advcore.errors import SettingProblem, check_within, must, require, unless
from advcore.rng import Stream
from advcore.settings import setting, settings
from advcore.shares import floor_share
from advcore.types import check_losses, is_ours


@settings
class EpochSubset:
    """Settings that are shared by rules that train on part of an epoch's examples, in full batches.

    They choose before the epoch's batches are drawn, by the losses of the run's own training steps. The learning rate
    and a growing ball follow the epochs, however few steps an epoch has.

    Parameters
    ----------
    whole : share of the epochs, the last ones, that train on all their examples, in [0, 1]; rounded up.
    """

    whole: float = setting(default=0.125, unit="share")
    reads: ClassVar[str | None] = None
    single_image: ClassVar[bool] = False
    needs_validation: ClassVar[bool] = False
    warm_up: ClassVar[int] = 0

    def __post_init__(self) -> None:
        require(check_within("whole", self.whole, 0, 1), *self._check_more())

    def _check_more(self) -> list[SettingProblem | None]:
        """Return what may be wrong with a subclass's own settings."""
        return []

    def describe(self) -> str:
        """Return what a plan says of the rule."""
        return "training on part of each epoch's examples; at most"

    def leaves_out(self, epoch: int, epochs: int) -> bool:
        """Return whether an epoch, counted from 0 of `epochs` that run, may leave examples out."""
        return epoch < floor_share(1 - self.whole, epochs)

    def choose_weights(self, losses: Tensor, generator: Stream) -> Tensor:
        """Return what `weigh` does. Raises ConfigError where a rule from elsewhere returns what cannot be."""
        factors = check_losses(self.weigh(losses, generator), losses, f"the weights of {type(self).__name__}")
        if not is_ours(self):
            low, high = torch.aminmax(factors)
            is_right = bool((low >= 0) & torch.isfinite(high))  # not so for NaN
            rule = "finite, and at least 0"
            require(unless(is_right, must(f"the weights of {type(self).__name__}", rule, f"{low:.4g} to {high:.4g}")))
        return factors

    def weigh(self, losses: Tensor, generator: Stream) -> Tensor:
        """Return a factor (n,) for the weight of each example of an epoch; those of 0 are left out of it.

        losses : (n,) of the last training step of each, NaN where there was none. generator : bound to the n examples.
        """
        raise NotImplementedError
