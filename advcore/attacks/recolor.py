"""ReColorAdv: one smooth change of colours for the whole image."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from advcore.attacks.functional import Functional
from advcore.attacks.geometry import measure_linf
from advcore.errors import SettingProblem, check_at_least, must, require
from advcore.settings import setting, settings


@settings
class ReColorAdv(Functional):
    """Adds to each pixel the change that a table, interpolated linearly, holds for its colour.

    Parameters
    ----------
    eps : largest change of a channel, in [0, 1] pixel units; at most 1.
    resolution : entries of the table along each channel, 2 to 256.
    steps, restarts : see `Iterated`.

    For images of one or three channels. Reference: Laidlaw and Feizi 2019, section 4. Differs: RGB (which
    their paper has besides CIELUV), and no smoothness penalty beyond the table's own resolution.
    """

    eps: float = setting(default=0.06, unit="pixels")
    resolution: int = setting(default=16, unit="entries")
    norm: ClassVar[str] = "recolor"
    widest: ClassVar[float] = 1.0
    described_settings: ClassVar[tuple[str, ...]] = ("resolution",)

    def _check_more(self) -> list[SettingProblem | None]:
        return [*super()._check_more(), check_at_least("resolution", self.resolution, 2, most=256)]

    def problem(self, shape: tuple[int, int, int]) -> SettingProblem | None:
        return None if shape[0] in (1, 3) else must("name", "an attack for 1 or 3 channels", "recoloradv")

    def choose_shape(self, x: Tensor) -> tuple[int, ...]:
        _, channels, height, width = x.shape
        require(self.problem((channels, height, width)))
        return (len(x), channels, *[self.resolution] * channels, *[1] * (3 - channels))

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        channels = x.shape[1]
        positions = [2 * x[:, channel] - 1 for channel in range(channels)]
        positions += [torch.zeros_like(x[:, 0])] * (3 - channels)
        grid = torch.stack(positions[::-1], -1)[:, None]  # grid_sample's first coordinate is the table's last axis
        change = nn.functional.grid_sample(p, grid, mode="bilinear", padding_mode="border", align_corners=True)
        return (x + change[:, :, 0]).clamp(0, 1)

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return measure_linf(x, x_adv) - self.eps
