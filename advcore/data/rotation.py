"""Small rotations, each image by its own angle, with nearest-neighbour sampling and zero padding."""

import math

import torch
from torch import Tensor

from advcore.rng import Stream


def rotate(x: Tensor, generator: Stream, strength: float = 15.0) -> Tensor:
    """Turn each image of x (B, C, H, W) about its centre, counter-clockwise, by an angle from [-strength, strength].

    strength : in degrees, 0 to 180. Each output pixel takes the value of the nearest input pixel, 0 from outside.
    `generator` is bound to the B examples. Nearest pixels can repeat, so that remembered perturbations cannot follow.
    Reference: torchvision's RandomRotation, which PAT (Laidlaw et al. 2021) trains with, at 2 degrees.
    """
    draws = generator.child("rotation").uniform((len(x), 1, 1)).double()
    angle = (2 * draws - 1) * math.radians(strength)
    return turn(x, angle)


def turn(x: Tensor, angle: Tensor) -> Tensor:
    """Turn images (B, C, H, W) by angles (B, 1, 1) float64, in radians; see `rotate`."""
    height, width = x.shape[2:]
    down = torch.arange(height, device=x.device, dtype=torch.float64)[:, None] - (height - 1) / 2
    across = torch.arange(width, device=x.device, dtype=torch.float64)[None] - (width - 1) / 2
    cosine, sine = angle.cos(), angle.sin()
    rows = (cosine * down + sine * across + (height - 1) / 2).round().long()
    columns = (cosine * across - sine * down + (width - 1) / 2).round().long()
    is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).flatten(1)
    turned = x.flatten(2).gather(2, places[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return torch.where(is_inside[:, None], turned, torch.zeros_like(turned))
