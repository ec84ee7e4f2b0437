"""StAdv: a flow moves the pixels, their colours stay."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advcore.attacks.functional import Functional
from advcore.types import settings


@settings
class StAdv(Functional):
    """Each pixel is read, bilinearly, from where a flow says; beyond the border its pixels go on.

    Parameters
    ----------
    eps : how far, in both directions, in half widths (heights) of the image: 0.05 is 0.8 pixels of 32.
    steps, restarts : see `Iterated`.

    `excess` is by how much a pixel exceeds the range of those that the flow can reach, which no flow in the ball does.
    Reference: Xiao et al. 2018, eq. 2. Differs: bounded and climbed by PGD, as PAT evaluates it, instead of a
    smoothness penalty and L-BFGS.
    """

    eps: float = 0.05
    norm: ClassVar[str] = "stadv"
    widest: ClassVar[float] = 2.0

    def shape(self, x: Tensor) -> tuple[int, ...]:
        return len(x), 2, *x.shape[2:]

    def applied(self, x: Tensor, p: Tensor) -> Tensor:
        rows, columns = (torch.arange(size, device=x.device, dtype=x.dtype) for size in x.shape[2:])
        height, width = x.shape[2:]
        # in pixels: a flow of 0 reads exactly the pixel itself
        down = rows[:, None] + p[:, 0] * (height / 2)
        along = columns[None, :] + p[:, 1] * (width / 2)
        grid = torch.stack([_unit(along, width), _unit(down, height)], -1)
        moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)
        still = (p == 0).all(1, keepdim=True)
        return torch.where(still, x, moved).clamp(0, 1)

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        reach = [1 + math.floor(self.eps * size / 2 + 1e-4) for size in x.shape[2:]]
        reach = [min(one, size) if self.eps else 0 for one, size in zip(reach, x.shape[2:], strict=True)]
        window, pads = [2 * one + 1 for one in reach], (reach[1], reach[1], reach[0], reach[0])
        padded = F.pad(x.double(), pads, mode="replicate")
        high, low = F.max_pool2d(padded, window, 1), -F.max_pool2d(-padded, window, 1)
        return torch.maximum(x_adv.double() - high, low - x_adv.double()).flatten(1).amax(1)


def _unit(position: Tensor, size: int) -> Tensor:
    """Positions in 0..size - 1 as grid_sample counts them, from -1 to 1."""
    return 2 * position / max(size - 1, 1) - 1
