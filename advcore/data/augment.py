"""Batched augmentation on the device: each image draws for itself from a stream, without a Python loop."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from advcore.errors import ConfigError, DataError, must
from advcore.rng import Stream
from advcore.types import describe_tensor, is_ours
from advcore.unit_range import check_images

# Images (B, C, H, W), and random numbers that are bound to the B examples, to the augmented images.
Augmentation = Callable[[Tensor, Stream], Tensor]


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


def augment_images(augment: Augmentation, x: Tensor, generator: Stream) -> Tensor:
    """Return the augmented images of a batch x (B, C, H, W).

    Raises ConfigError unless they are B images (B, C, H, W) of floats; and, where the function is not advcore's own,
    DataError unless they are in [0, 1].
    """
    augmented = augment(x, generator)
    is_batch = isinstance(augmented, Tensor) and augmented.ndim == 4 and len(augmented) == len(x)
    if not is_batch or not augmented.dtype.is_floating_point:
        rule = f"a function that returns the {len(x)} images of a batch as floats"
        raise ConfigError(must("augment", rule, describe_tensor(augmented)))
    if not is_ours(augment):
        try:
            check_images(augmented, generator.examples)
        except DataError as error:
            raise DataError(f"augment: {error}") from None
    return augmented


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": keep_images,
    "crop": crop,
    "crop_flip": crop_flip,
}
