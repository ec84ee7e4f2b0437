"""The check that images are in [0, 1], and where it can be skipped."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

from advcore.errors import DataError

_TOLERANCE = 1e-4
_WAY_OUT = (
    "divide 0-255 values by 255, and make normalisation the model's first layer (advcore.models.add_normalization)"
)
_is_checked: ContextVar[bool] = ContextVar("images are checked", default=False)


def check_images(x: Tensor, indices: Tensor) -> None:
    """Raise DataError at the first image of x (B, C, H, W) that is not finite or not in [0, 1] (tolerance 1e-4)."""
    if x.dtype == torch.uint8:
        return
    if not x.dtype.is_floating_point:
        raise DataError(f"images must be uint8, or floats in [0, 1], got {x.dtype}")
    pixels = x.flatten(1)
    if not pixels.shape[1]:
        raise DataError(f"images must have pixels, got {tuple(x.shape[1:])} (channels, height, width)")
    low = pixels.amin(1)
    high = pixels.amax(1)
    bad = ~((low >= -_TOLERANCE) & (high <= 1 + _TOLERANCE))
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise DataError(
            f"images must be finite and in [0, 1], got minimum {low[first]:.4g} and maximum {high[first]:.4g} in image "
            f"{int(indices[first])}; {_WAY_OUT}"
        )


def check_attackable(x: Tensor) -> None:
    """Raise DataError unless x (B, C, H, W) are floats in [0, 1]; inside `trust_images`, do nothing."""
    if _is_checked.get() or not len(x):
        return
    if not x.dtype.is_floating_point:
        raise DataError(f"images to attack must be floats in [0, 1], got {x.dtype}; divide 0-255 values by 255")
    check_images(x.detach(), torch.arange(len(x)))


@contextlib.contextmanager
def trust_images() -> Iterator[None]:
    """Let attacks inside take images as they come, because their source has checked them.

    To look at them again would make every attack wait for the device.
    """
    before = _is_checked.set(True)
    try:
        yield
    finally:
        _is_checked.reset(before)
