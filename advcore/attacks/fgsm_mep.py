"""FGSM-MEP: one signed step from where the momentum of gradients of past epochs has led; for training only."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor

from advcore import distributed
from advcore.attacks.base import take_input_gradient, to_full_precision
from advcore.attacks.geometry import draw_linf, project_linf, step_linf
from advcore.attacks.memory import Augmentation, Memory, Perturbations
from advcore.attacks.single_step import SingleStep
from advcore.errors import SettingProblem, check_within
from advcore.rng import Stream
from advcore.settings import setting, settings
from advcore.types import Loss
from advcore.unit_range import check_attackable

_NORM = 64.0  # of what a momentum adds: 64 / (1 - 0.999) is what float16 holds


class MomentumMemory(Perturbations):
    """Stores the point from which each example's next attack starts, and the momentum of its gradients.

    The momentum is a second memory of the same kind, so it moves with the pixels, is forgotten with the points, and is
    saved with them. Parameters are those of `Perturbations`.
    """

    def __init__(
        self,
        settings: Memory,
        size: int,
        shape: tuple[int, int, int],
        device: torch.device,
        augment: Augmentation | None = None,
        place: torch.device | None = None,
    ):
        self.momentum = Perturbations(settings, size, shape, device, augment, place)
        self._held: tuple[Tensor, Tensor] | None = None
        super().__init__(settings, size, shape, device, augment, place)

    def begin(self, indices: Tensor, view: Stream | None, room: int | None = None) -> None:
        self.momentum.begin(indices, view, room)
        super().begin(indices, view, room)

    def look(self, view: Stream | None) -> None:
        self.momentum.look(view)
        super().look(view)

    def recall_momentum(self, x: Tensor, indices: Tensor) -> Tensor:
        """Return (B, C, H, W) the momentum of the examples, in the view of the images x; 0 where there is none."""
        zeros = torch.zeros_like(x)
        return self.momentum.recall(zeros, indices, lambda: zeros)

    def hold(self, points: Tensor, momentum: Tensor) -> None:
        """Take what `keep` will store of the batch that is attacked: (B, C, H, W) each."""
        self._held = points, momentum

    def keep(self, x: Tensor, x_adv: Tensor, indices: Tensor) -> None:
        """Store what the attack left with `hold`, of all processes; the images x_adv that it returned are not stored.

        x, indices : of the whole batch, (B, C, H, W) and (B,).
        """
        assert self._held is not None, "the attack of this memory holds what it leaves"
        points, momentum = distributed.concatenate(*self._held)
        self._held = None
        super().keep(x, points, indices)
        self.momentum.keep(torch.zeros_like(x), momentum, indices)

    def state(self) -> dict[str, object]:
        return {**super().state(), "momentum": self.momentum.state()}

    def restore(self, state: Mapping) -> None:
        self.momentum.restore(state["momentum"])
        super().restore(state)


@settings
class FGSMMEP(SingleStep):
    """FGSM from a start that momentum moves from epoch to epoch; projected, and for training.

    The start p and the momentum m of an example are remembered (`training.memory`), from a uniform p and m = 0. With
    g the gradient at p: x_adv = P(p + step_size sign g), m becomes decay m + g / ||g||_1, and p becomes
    P(p + step_size sign m), P the projection onto the ball and [0, 1]. At decay 0 that is FGSM-EP: `linf_pgd` with
    `steps: 1` and `start: remembered`.

    Parameters
    ----------
    eps : radius of the linf ball, in [0, 1] pixel units.
    step_size : length of the step, in pixel units, above 0; None means eps.
    decay : share of the momentum that stays from one epoch to the next, in [0, 1); the authors' code has 0.3.

    Cost: one forward and one backward pass per example; memory for two images of each example.
    Reference: Jia et al. 2022, section 3.2 (FGSM-MEP). Differs: start and momentum move with the pixels of an
    augmented image, where the authors' code reads them in the frame of another crop and flip; the l1 norm is that of
    the example's gradient, where the code has the batch's, and the paper adds signs: with a decay of at most 0.5 these
    outweigh all before them, and MEP would be EP; the first start is uniform in the ball, not one of its corners, and
    is projected before the model sees it. The stored m is 64 times as large, within what float16 holds;
    int8 loses what is below 1/254 of its largest part.
    """

    eps: float = setting(unit="pixels")
    step_size: float | None = setting(default=None, unit="as eps")
    decay: float = setting(default=0.3, unit="share")
    remembers: ClassVar[bool] = True
    storage: ClassVar[type[Perturbations]] = MomentumMemory
    tensors: ClassVar[int] = 2
    memory: ClassVar[Perturbations | None] = None  # a field once there is one (`with_memory`)

    described_settings: ClassVar[tuple[str, ...]] = ("decay",)

    def _check_more(self) -> list[SettingProblem | None]:
        return [
            self._check_step_size(),
            check_within("decay", self.decay, low=0, high=0.999),
        ]

    def find_start(self, x: Tensor, generator: Stream) -> Tensor:
        """Return the points (B, C, H, W) at which a call takes its gradient."""
        x = to_full_precision(x)
        start = partial(draw_linf, x, self.eps, generator.child("restart", 0))  # as linf_pgd draws
        if self.memory is None:
            return project_linf(start(), x, self.eps)
        return project_linf(self.memory.recall(x, generator.examples, start), x, self.eps)

    def __call__(self, loss_fn: Loss, x: Tensor, *, generator: Stream) -> Tensor:
        check_attackable(x)
        x = to_full_precision(x)
        start = self.find_start(x, generator)
        _, gradient = take_input_gradient(loss_fn, start)
        if isinstance(self.memory, MomentumMemory):  # a selection may read that of another attack
            momentum = self.decay * self.memory.recall_momentum(x, generator.examples) + normalise_gradient(gradient)
            self.memory.hold(self._move(start, momentum, x), momentum)
        return self._move(start, gradient, x)

    def _move(self, start: Tensor, direction: Tensor, x: Tensor) -> Tensor:
        return project_linf(step_linf(start, direction, self.length), x, self.eps)

    def with_memory(self, memory: Perturbations | None) -> Self:
        return self._attach(memory=memory)


def normalise_gradient(gradient: Tensor) -> Tensor:
    """Return the gradient of each example (B, ...) with an l1 norm of 64; 0 stays 0.

    It is divided by its largest entry first, so that the norm does not underflow.
    """
    dims = tuple(range(1, gradient.ndim))
    largest = gradient.abs().amax(dims, keepdim=True)
    scaled = gradient / torch.where(largest > 0, largest, 1)
    return scaled * (_NORM / scaled.abs().sum(dims, keepdim=True).clamp_min(1))
