"""JPEG-linf: changes of the coefficients that a JPEG file of the image would hold."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from advcore.attacks.functional import Functional
from advcore.errors import SettingProblem, check_within
from advcore.settings import setting, settings

# ITU-T T.81, annex K, tables K.1 and K.2: the divisors of the coefficients at quality 50
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
# the corner of low frequencies of table K.2; all other divisors are 99
_CHROMINANCE = (
    (17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99),
)  # fmt: skip
# red, green and blue from luminance and the two chrominances (JFIF)
_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


@settings
class JPEGLinf(Functional):
    """Adds to each 8 x 8 block the decoded change of its JPEG coefficients; nothing is rounded or subsampled.

    Parameters
    ----------
    eps : largest change of a coefficient, in units of its quantisation step, in [0, 255].
    quality : of the quantisation tables, 1 to 100.
    steps, restarts : see `Iterated`.

    `excess` looks only at blocks without a pixel at 0 or 1, which clipping to [0, 1] did not change.
    Reference: Kang et al. 2019, section 3.2. Differs: no chroma subsampling.
    """

    eps: float = setting(default=0.125, unit="quantisation steps")
    quality: int = 80
    norm: ClassVar[str] = "jpeg"
    example: ClassVar = {"eps": 0.5, "steps": 3}
    widest: ClassVar[float] = 255.0
    described_settings: ClassVar[tuple[str, ...]] = ("quality",)

    def _check_more(self) -> list[SettingProblem | None]:
        return [*super()._check_more(), check_within("quality", self.quality, low=1, high=100)]

    def choose_shape(self, x: Tensor) -> tuple[int, ...]:
        return len(x), x.shape[1], *(8 * math.ceil(size / 8) for size in x.shape[2:])

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        cosines, steps, colours = self._build_tables(x)
        pixels = _from_blocks(cosines.T @ (_to_blocks(p) * steps) @ cosines, p.shape) / 255
        change = torch.einsum("dc,bchw->bdhw", colours, pixels)
        return (x + change[:, :, : x.shape[2], : x.shape[3]]).clamp(0, 1)

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        x, x_adv = x.double(), x_adv.double()
        cosines, steps, colours = self._build_tables(x)
        height, width = (8 * (size // 8) for size in x.shape[2:])  # whole blocks
        if not height or not width:
            return x.new_full((len(x),), -self.eps)
        x_adv = x_adv[:, :, :height, :width]
        change = torch.einsum("cd,bdhw->bchw", torch.linalg.inv(colours), x_adv - x[:, :, :height, :width])
        coefficients = cosines @ (_to_blocks(change) * 255) @ cosines.T / steps
        largest = coefficients.abs().amax((-1, -2)).amax(1)
        clipped = _to_blocks(((x_adv <= 0) | (x_adv >= 1)).to(x)).amax((-1, -2, 1)) > 0
        return largest.masked_fill(clipped, 0).flatten(1).amax(1) - self.eps

    def _build_tables(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the cosine transform (8, 8), quantisation steps (C, 1, 1, 8, 8), and the colour transform (C, C)."""
        k = torch.arange(8, dtype=torch.float64)
        cosines = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
        cosines[0] /= 2**0.5
        chrominance = nn.functional.pad(torch.tensor(_CHROMINANCE), (0, 4, 0, 4), value=99)
        tables = torch.stack([torch.tensor(_LUMINANCE), chrominance, chrominance]).double()
        scale = 50 / self.quality if self.quality < 50 else 2 - self.quality / 50
        steps = (tables * scale).round().clamp(1, 255)
        colours = torch.tensor(_RGB, dtype=torch.float64)
        channels = x.shape[1]
        if channels != 3:  # each channel is treated as luminance
            steps = steps[:1].expand(channels, 8, 8)
            colours = torch.eye(channels, dtype=torch.float64)
        return cosines.to(x), steps[:, None, None].to(x), colours.to(x)


def _to_blocks(images: Tensor) -> Tensor:
    """Cut (B, C, H, W) into (B, C, H / 8, W / 8, 8, 8)."""
    return images.unfold(2, 8, 8).unfold(3, 8, 8)


def _from_blocks(blocks: Tensor, shape: torch.Size) -> Tensor:
    """Join the blocks of `_to_blocks` into images of `shape` (B, C, H, W)."""
    return blocks.permute(0, 1, 2, 4, 3, 5).reshape(shape)
