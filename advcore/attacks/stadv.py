"""StAdv: a flow moves the pixels, and leaves their colours as they are."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from advcore.attacks.functional import Functional
from advcore.settings import setting, settings


@settings
class StAdv(Functional):
    """Reads each pixel, bilinearly, from where a flow points; beyond the image the border pixels are repeated.

    Parameters
    ----------
    eps : largest displacement, along each axis, in half widths (heights) of the image: 0.05 is 0.8 pixels of 32.
    steps, restarts : see `Iterated`.

    `excess` is by how much a pixel's value leaves the range of the pixels within reach, which no flow in the ball does.
    Reference: Xiao et al. 2018, eq. 2. Differs: bounded and climbed by PGD, as PAT evaluates it, instead of a
    smoothness penalty and L-BFGS.
    """

    eps: float = setting(default=0.05, unit="half widths")
    norm: ClassVar[str] = "stadv"
    example: ClassVar = {"eps": 0.2, "steps": 3}
    widest: ClassVar[float] = 2.0

    def choose_shape(self, x: Tensor) -> tuple[int, ...]:
        return len(x), 2, *x.shape[2:]

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows, columns = (torch.arange(size, device=x.device, dtype=x.dtype) for size in (height, width))
        # positions are in pixels: a flow of 0 reads exactly the pixel itself
        down = rows[:, None] + p[:, 0] * (height / 2)
        along = columns[None, :] + p[:, 1] * (width / 2)
        grid = torch.stack([_to_grid(along, width), _to_grid(down, height)], -1)
        moved = nn.functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)
        return torch.where((p == 0).all(1, keepdim=True), x, moved).clamp(0, 1)

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        rows, columns = (self._measure_reach(size) for size in x.shape[2:])
        padded = nn.functional.pad(x.double(), (columns, columns, rows, rows), mode="replicate")
        window = (2 * rows + 1, 2 * columns + 1)
        highest = nn.functional.max_pool2d(padded, window, 1)
        lowest = -nn.functional.max_pool2d(-padded, window, 1)
        return torch.maximum(x_adv.double() - highest, lowest - x_adv.double()).flatten(1).amax(1)

    def _measure_reach(self, size: int) -> int:
        """Return how many pixels away a flow in the ball can read, along an axis of this many pixels."""
        if not self.eps:
            return 0
        return min(1 + math.floor(self.eps * size / 2 + 1e-4), size)


def _to_grid(position: Tensor, size: int) -> Tensor:
    """Convert positions in 0..size - 1 to grid_sample's coordinates, from -1 to 1."""
    return 2 * position / max(size - 1, 1) - 1
