"""RandAugment: operations that each image draws from torchvision's list of 14."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from advcore.errors import require_package
from advcore.rng import Stream

_LEVELS = 30  # the largest magnitude


def list_operations(magnitude: float, height: int, width: int) -> list[Callable[[Tensor], Tensor]]:
    """Return the 14 operations of torchvision's RandAugment, at a magnitude in [0, 30], in each of two directions.

    They take images (B, C, height, width) in [0, 1], of one channel or three, and give such. Those that have no
    direction are listed twice, so that all 28 are equally likely to be drawn.
    """
    with require_package("torchvision", "data.augment: randaugment"):
        from torchvision.transforms.v2 import functional

    level = magnitude / _LEVELS
    affine = partial(functional.affine, angle=0.0, scale=1.0)
    operations: list[Callable[[Tensor], Tensor]] = []
    for sign in (1, -1):
        slope = sign * math.degrees(math.atan(0.3 * level))
        factor = 1 + sign * 0.9 * level
        across = sign * int(150 / 331 * width * level)
        down = sign * int(150 / 331 * height * level)
        operations += [
            torch.clone,
            partial(affine, translate=[0, 0], shear=[slope, 0.0], center=[0.0, 0.0]),
            partial(affine, translate=[0, 0], shear=[0.0, slope], center=[0.0, 0.0]),
            partial(affine, translate=[across, 0], shear=[0.0, 0.0]),
            partial(affine, translate=[0, down], shear=[0.0, 0.0]),
            partial(functional.rotate, angle=sign * 30.0 * level),
            partial(functional.adjust_brightness, brightness_factor=factor),
            partial(functional.adjust_saturation, saturation_factor=factor),
            partial(functional.adjust_contrast, contrast_factor=factor),
            partial(functional.adjust_sharpness, sharpness_factor=factor),
            partial(functional.posterize, bits=round(8 - 4 * level)),
            partial(functional.solarize, threshold=1 - level),
            functional.autocontrast,
            functional.equalize,
        ]
    return operations


def randaugment(x: Tensor, generator: Stream, count: int = 2, magnitude: float = 9) -> Tensor:
    """Apply `count` operations to images (B, C, H, W) in [0, 1], one after the other, each drawn for each image.

    Images that drew the same operation go through it together.
    Reference: Cubuk et al. 2020 (RandAugment), section 3, with torchvision's operations, ranges and defaults.
    """
    operations = list_operations(magnitude, *x.shape[2:])
    draws = generator.child("randaugment").uniform((len(x), count))
    for chosen in (draws * len(operations)).long().cpu().T:
        before = x
        x = x.clone()
        for choice in chosen.unique().tolist():
            positions = (chosen == choice).nonzero()[:, 0].to(x.device)
            x[positions] = operations[choice](before[positions])
    return x
