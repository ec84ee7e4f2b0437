"""Batched augmentation on the device: each image draws for itself from a stream, without a Python loop."""

from collections.abc import Callable
from functools import partial, update_wrapper

import torch
import torch.nn.functional as F
from torch import Tensor

from advcore.data.randaugment import randaugment
from advcore.data.rotation import rotate
from advcore.errors import (
    ConfigError,
    DataError,
    SettingProblem,
    check,
    must,
    require,
    require_package,
    suggest_nearest,
)
from advcore.rng import Stream
from advcore.types import describe_tensor, is_ours
from advcore.unit_range import check_images

# Images (B, C, H, W), and random numbers that are bound to the B examples, to the augmented images.
Augmentation = Callable[[Tensor, Stream], Tensor]


def crop(x: Tensor, generator: Stream, padding: int | None = None) -> Tensor:
    """Pad (B, C, H, W) with zeros on each side, then cut each image back to (H, W) at its own random offset.

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
    """Crop and then flip images (B, C, H, W), each by its own draws."""
    return flip(crop(x, generator), generator)


def color_jitter(x: Tensor, generator: Stream, strength: float = 0.4) -> Tensor:
    """Change brightness, contrast and saturation of images (B, C, H, W) in [0, 1], in this order, and cut to [0, 1].

    Each image draws its three factors from [1 - strength, 1 + strength]; torchvision's formulas. C is 1 or 3.
    Differs from torchvision's ColorJitter: always in this order, and hue stays.
    """
    with require_package("torchvision", "data.augment: color_jitter"):
        from torchvision.transforms.v2.functional import rgb_to_grayscale

    draws = generator.child("color_jitter").uniform((len(x), 3, 1, 1, 1)).to(x.dtype)
    brightness, contrast, saturation = (1 + strength * (2 * draws - 1)).unbind(1)
    x = (brightness * x).clamp(0, 1)
    x = _blend(x, rgb_to_grayscale(x).mean((1, 2, 3), keepdim=True), contrast)
    return _blend(x, rgb_to_grayscale(x), saturation)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * x + (1 - factor) * other).clamp(0, 1)


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
    "flip": flip,
    "color_jitter": color_jitter,
    "rotation": rotate,
    "randaugment": randaugment,
}
# Those whose strength can follow their name, as in "color_jitter:0.25", and the largest of it.
STRONGEST = {"color_jitter": 1.0, "rotation": 180.0}


def find_augmentation_problem(names: str) -> SettingProblem | None:
    """Return what is wrong with names of augmentations, joined by "+"; None if they are known, and each is named once.

    One that is named twice would draw the same numbers twice.
    """
    parts = names.split("+")
    for part in parts:
        problem = _find_part_problem(*part.partition(":"))
        if problem is not None:
            return problem
    is_once = len({part.partition(":")[0] for part in parts}) == len(parts)
    return check(is_once, "augment", "names joined by +, each once", names)


def _find_part_problem(name: str, colon: str, strength: str) -> SettingProblem | None:
    """Return what is wrong with the name of an augmentation, and with the strength that follows its colon."""
    if name not in AUGMENTATIONS:
        rule = f"one of {', '.join(AUGMENTATIONS)}, or several joined by +"
        return must("augment", rule, name, suggest_nearest(name, AUGMENTATIONS))
    if not colon:
        return None
    if name not in STRONGEST:
        return must("augment", f"without a strength for {name}", f"{name}:{strength}")
    rule = f"{name}:S with a number S in [0, {STRONGEST[name]:g}]"
    try:
        return check(0 <= float(strength) <= STRONGEST[name], "augment", rule, f"{name}:{strength}")
    except ValueError:
        return must("augment", rule, f"{name}:{strength}")


def _build_part(part: str) -> Augmentation:
    """Return the augmentation of a name, at the strength that follows its colon, if there is one."""
    name, _, strength = part.partition(":")
    augment: Callable[..., Tensor] = AUGMENTATIONS[name]
    if not strength:
        return augment
    return update_wrapper(partial(augment, strength=float(strength)), augment)


def build_augmentation(names: str, channels: int) -> Augmentation:
    """Return the augmentation that applies those of the names, joined by "+", one after the other.

    Raises ConfigError for one that changes colours, and images that have neither one channel nor three.
    """
    parts = [_build_part(part) for part in names.split("+")]
    changes_colours = any(part.partition(":")[0] in ("color_jitter", "randaugment") for part in names.split("+"))
    is_right = channels in (1, 3) or not changes_colours
    rule = f"without color_jitter and randaugment for images of {channels} channels"
    require(check(is_right, "data.augment", rule, names, "they change colours of 1 channel or 3"))
    if len(parts) == 1:
        return parts[0]

    def augment(x: Tensor, generator: Stream) -> Tensor:
        for part in parts:
            x = part(x, generator)
        return x

    augment.__name__ = names
    for part in parts:
        if not is_ours(part):  # then neither is the whole, whose images are looked at
            augment.__module__ = part.__module__
    return augment
