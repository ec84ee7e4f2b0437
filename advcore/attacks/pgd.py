"""Projected gradient ascent in a ball; one step of it is FGSM."""

import math
from functools import partial
from typing import ClassVar, Self

from torch import Tensor

from advcore.attacks.base import Iterated, climb, to_full_precision
from advcore.attacks.geometry import LP, Geometry, step_l1
from advcore.attacks.memory import Perturbations
from advcore.errors import SettingProblem, check_one_of, check_positive, check_share, check_within, must, unless
from advcore.pixels import format_pixels
from advcore.rng import Stream
from advcore.settings import setting, settings
from advcore.types import Loss

STARTS = ("uniform", "gaussian", "clean", "remembered")
START_ALIASES = {"random": "uniform", "normal": "gaussian", "none": "clean", "zero": "clean", "memory": "remembered"}
MOST_PIXELS = 1e12  # the number of pixels assumed before the data are known
_GAUSSIAN_START = 1e-3  # as in TRADES (Zhang et al. 2019), trades.py


def check_radius(eps: object, largest: float) -> SettingProblem | None:
    """Return the problem with a radius in pixel units that must be at most `largest`, or None."""
    way_out = "pixels are in [0, 1], and eps counts in the same units"
    if isinstance(eps, (int, float)) and 1 < eps <= 255 and "/" not in format_pixels(eps):
        way_out += f": write {eps:g}/255"  # a radius in grey levels
    return check_within("eps", eps, low=0, high=round(largest, 4), way_out=way_out)


@settings
class PGD(Iterated):
    """Settings and behaviour that PGD in all balls shares.

    Parameters
    ----------
    eps : radius of the ball around the clean image, in [0, 1] pixel units, at most 1 (linf), sqrt(D) (l2) or D (l1), D
        the number of pixels.
    steps, restarts : see `Iterated`.
    step_size : length of a step in the ball's norm, same units, above 0; None means 2.5 eps / steps.
    start : "uniform" in the ball, "gaussian" (x + 0.001 N(0, 1), TRADES), "clean", or, for training, "remembered":
        where the attack left the example in an earlier epoch (`advcore.attacks.memory`), uniform where there was none.

    Raises ConfigError for values out of range. Cost: `steps` forward and backward passes per example and restart, and
    one forward pass more per restart if there are several.
    Reference: Madry et al. 2018, section 2.1; Goodfellow et al. 2015 for one step.
    Differs: the l2 start is uniform in the ball, not per pixel far outside of it.
    """

    eps: float = setting(unit="pixels")
    step_size: float | None = setting(default=None, unit="as eps")
    start: str = "uniform"
    memory: ClassVar[Perturbations | None] = None  # a field once there is one (`with_memory`)
    described_settings: ClassVar[tuple[str, ...]] = ("start",)

    @property
    def geometry(self) -> Geometry:
        """The functions of the attack's ball."""
        return LP[self.norm]

    def _check_eps(self) -> SettingProblem | None:
        return check_radius(self.eps, self.geometry.compute_diameter(MOST_PIXELS))

    def _check_more(self) -> list[SettingProblem | None]:
        return [
            *super()._check_more(),
            unless(
                self.step_size is None,
                check_positive("step_size", self.step_size, "omit it for the default, 2.5 eps / steps"),
            ),
            check_one_of("start", self.start, STARTS, START_ALIASES),
            unless(
                not self.remembers or self.restarts == 1,
                must(
                    "restarts",
                    "1 for start: remembered",
                    self.restarts,
                    "only one perturbation per example is remembered",
                ),
            ),
        ]

    def problem(self, shape: tuple[int, int, int]) -> SettingProblem | None:
        return check_radius(self.eps, self.geometry.compute_diameter(math.prod(shape)))

    @property
    def length(self) -> float:
        """Length of a step, in the units of eps."""
        return super().length if self.step_size is None else self.step_size

    def _attack_once(self, loss_fn: Loss, x: Tensor, generator: Stream) -> Tensor:
        return self.rise(loss_fn, x, self._start(x, generator))

    def begin(self, x: Tensor, generator: Stream) -> Tensor | None:
        return self._start(x, generator.child("restart", 0)) if self.restarts == 1 else None

    def rise(self, loss_fn: Loss, x: Tensor, start: Tensor) -> Tensor:
        return climb(
            loss_fn,
            start,
            steps=self.steps,
            move=self._move,
            project=partial(self.geometry.project, x=x, eps=self.eps),
        )

    def _move(self, x_adv: Tensor, gradient: Tensor) -> Tensor:
        return self.geometry.step(x_adv, gradient, self.length)

    def find_start(self, x: Tensor, generator: Stream) -> Tensor:
        """Return the points (B, C, H, W) at which a call takes its first gradient; for one restart."""
        x = to_full_precision(x)
        return self.geometry.project(self._start(x, generator.child("restart", 0)), x=x, eps=self.eps)

    def _start(self, x: Tensor, generator: Stream) -> Tensor:
        if self.start == "gaussian":
            return x + _GAUSSIAN_START * generator.normal(tuple(x.shape)).to(x)
        if self.start == "clean":
            return x
        draw = partial(self.geometry.start, x, self.eps, generator)
        if not self.remembers or self.memory is None:
            return draw()
        return self.memory.recall(x, generator.examples, draw)

    @property
    def remembers(self) -> bool:
        return self.start == "remembered"

    def with_memory(self, memory: Perturbations | None) -> Self:
        return self._attach(memory=memory)

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return self.geometry.distance(x, x_adv) - self.eps

    def scale(self, fraction: float) -> Self:
        return self.with_settings(eps=self.eps * fraction, step_size=self.length * fraction or None)

    def reference(self, steps: int) -> Self:
        return super().reference(steps)._without_memory()

    def probe(self) -> Self:
        probe = super().probe()._without_memory()
        return probe if probe.steps == self.steps else probe.with_settings(step_size=None)

    def _without_memory(self) -> Self:
        return self.with_settings(start="uniform") if self.remembers else self


@settings
class LinfPGD(PGD):
    """PGD in the linf ball, by signed steps; see `PGD` for its settings."""

    norm: ClassVar[str] = "linf"
    example: ClassVar = {"eps": 8 / 255, "steps": 3}
    elementwise: ClassVar[bool] = True


@settings
class L2PGD(PGD):
    """PGD in the l2 ball, by normalised steps; see `PGD` for its settings."""

    norm: ClassVar[str] = "l2"
    example: ClassVar = {"eps": 0.5, "steps": 3}


@settings
class L1PGD(PGD):
    """PGD in the l1 ball, by sparse steps; see `PGD` for its other settings.

    A step moves the pixels with the largest gradients that do not push them out of [0, 1], all by the same length; the
    projection is onto the ball and [0, 1] at once.

    Parameters
    ----------
    sparsity : share of the pixels that a step moves, in (0, 1].

    Reference: Tramer and Boneh 2019, algorithm 1 (SLIDE); Croce and Hein 2021, proposition 2.1 (projection).
    """

    sparsity: float = setting(default=0.05, unit="share")
    norm: ClassVar[str] = "l1"
    example: ClassVar = {"eps": 4.0, "steps": 3}
    described_settings: ClassVar[tuple[str, ...]] = ("start", "sparsity")

    def _check_more(self) -> list[SettingProblem | None]:
        return [*super()._check_more(), check_share("sparsity", self.sparsity)]

    def _move(self, x_adv: Tensor, gradient: Tensor) -> Tensor:
        return step_l1(x_adv, gradient, self.length, sparsity=self.sparsity)
