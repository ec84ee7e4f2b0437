"""Batched augmentation on the device: each image draws for itself from a stream, without a Python loop."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from advcore.errors import ConfigError, must
from advcore.rng import Stream


def crop(x: Tensor, generator: Stream, padding: int | None = None) -> Tensor:
    """Pad (B, C, H, W) with zeros on each side, then cut each image back to (H, W) at a random offset of its own.

    padding : in pixels; None means an eighth of the height, rounded down: 4 of 32, 28 of 224, as the papers have it.
    Zeros as in the papers' pipelines; `generator` is bound to the B examples.
    """
    size, _, height, width = x.shape
    padding = height // 8 if padding is None else padding
    padded = F.pad(x, [padding] * 4)
    offsets = (generator.child("crop").uniform((size, 2)) * (2 * padding + 1)).long()
    rows = offsets[:, :1] + torch.arange(height, device=x.device)
    columns = offsets[:, 1:] + torch.arange(width, device=x.device)
    batch = torch.arange(size, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def flip(x: Tensor, generator: Stream) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    mirrored = generator.child("flip").uniform((len(x), 1, 1, 1)) < 0.5
    return torch.where(mirrored, x.flip(-1), x)


def crop_flip(x: Tensor, generator: Stream) -> Tensor:
    """Crop and then flip images (B, C, H, W), each by draws of its own."""
    return flip(crop(x, generator), generator)


def keep_images(x: Tensor, generator: Stream) -> Tensor:
    """Return the images as they are."""
    return x


def check_augmented(augmented: object, size: int) -> Tensor:
    """Return augmented images as they are. Raises ConfigError unless they are `size` images (B, C, H, W) of floats."""
    is_batch = isinstance(augmented, Tensor) and augmented.ndim == 4 and len(augmented) == size
    if isinstance(augmented, Tensor) and is_batch and augmented.dtype.is_floating_point:
        return augmented
    got = type(augmented).__name__
    if isinstance(augmented, Tensor):
        got = f"{augmented.dtype} of shape {tuple(augmented.shape)}"
    raise ConfigError(must("augment", f"a function that returns the {size} images of a batch as floats", got))


AUGMENTATIONS: dict[str, Callable[[Tensor, Stream], Tensor]] = {
    "none": keep_images,
    "crop": crop,
    "crop_flip": crop_flip,
}
