"""Logits of an unusual size, brought to a size at which an attack on the cross-entropy finds what there is to find."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advcore.attacks.base import to_full_precision

_SMALLEST_SPREAD = 0.05  # of logits, below which the cross-entropy is linear
_LARGEST_LEAD = 60.0  # of the largest logit, above which the cross-entropy has no gradient in float32
_USUAL_SPREAD = 10.0  # of logits, to which unusual ones are stretched


def measure_spread(logits: Tensor) -> Tensor:
    """Return (B,): how far the largest logit is above the lower quarter, in which masked classes do not count."""
    masked = logits.isneginf()
    least = logits.masked_fill(masked, float("inf")).amin(1, keepdim=True)
    logits = torch.where(masked, least, logits)
    return logits.amax(1) - logits.kthvalue((logits.shape[1] - 1) // 4 + 1, dim=1).values


@dataclass(frozen=True)
class Stretch:
    """Brings an image's logits into the range in which the cross-entropy has a gradient that leads somewhere.

    shift, factor : (B, 1), or (1, 1) for all images. Logits z become (z - shift) * factor: 0 and 1, which change no
        bit, for logits of a usual size. Far below it, the cross-entropy is linear, and the logit that is about to win
        counts as little as any other; far above, its gradient is 0 in float32.
    """

    shift: Tensor
    factor: Tensor

    @classmethod
    def fit(cls, logits: Tensor) -> "Stretch":
        """Return what stretches logits (B, C) like these."""
        ordered = to_full_precision(logits).sort(1).values
        first = ordered[:, -1:]
        lead = first - ordered[:, -2:][:, :1]
        spread = measure_spread(ordered)[:, None]
        is_small = (spread > 0) & (spread < _SMALLEST_SPREAD)
        size = torch.where(is_small, spread, lead)
        factor = _USUAL_SPREAD / size
        is_unusual = (is_small | (size > _LARGEST_LEAD)) & torch.isfinite(factor) & (factor > 0)
        return cls(
            torch.where(is_unusual, first, torch.zeros_like(first)),
            torch.where(is_unusual, factor, torch.ones_like(first)),
        )

    @classmethod
    def fit_all(cls, logits: Tensor) -> "Stretch":
        """Return the same stretch for all images: what half of those with logits (B, C) need."""
        single = cls.fit(logits)
        return cls(single.shift.median().view(1, 1), single.factor.median().view(1, 1))

    def __call__(self, logits: Tensor) -> Tensor:
        return (logits - self.shift) * self.factor
