"""Perceptual PGD: LPIPS-bounded steps, each of the steepest ascent and projected (Laidlaw et al. 2021)."""

from typing import ClassVar

import torch
from torch import Tensor

from advcore.attacks.base import take_gradient
from advcore.attacks.lpips import View, project
from advcore.attacks.perceptual import MAX_MARGIN, PROJECTION, Perceptual, compute_norms
from advcore.settings import setting, settings

_CG_STEPS = 5
_CG_PROBE = 1e-3  # length of the step of a finite difference


@settings
class PPGD(Perceptual):
    """Perceptual PGD: steps of a given LPIPS length, each projected; misclassified images stop moving.

    A step is the ascent direction of that length to first order, found by conjugate gradients on J^T J, J the
    embedding's Jacobian.

    Cost: a step takes 7 forward and 6 backward passes, and the projection at most 21 and 10 more.
    Reference: Laidlaw et al. 2021, algorithm 1.
    """

    steps: int = setting(default=40, unit="steps")
    example: ClassVar = {"eps": 0.3, "steps": 2}

    @property
    def length(self) -> float:
        """LPIPS length of a step."""
        return 2 * self.eps / self.steps

    def _count_passes_once(self) -> tuple[int, int]:
        forward = self._passes_to_observe + _CG_STEPS + 1 + PROJECTION[0]
        backward = 1 + _CG_STEPS + PROJECTION[1]
        return self._passes_to_observe + PROJECTION[0] + self.steps * forward, PROJECTION[1] + self.steps * backward

    def _count_observations(self) -> tuple[int, int]:
        return 1 + self.steps, self.steps

    def _search(self, view: View, x: Tensor, x_adv: Tensor) -> Tensor:
        x_adv = project(view.measure_distances, x, x_adv, self.eps)
        for _ in range(self.steps):
            step, margins = find_steepest_step(view, x_adv)
            moving = margins <= 0  # the others are misclassified inside the ball
            if not bool(moving.any()):
                break
            moved = project(view.measure_distances, x, x_adv + self.length * step, self.eps)
            x_adv = torch.where(moving.view(-1, 1, 1, 1), moved, x_adv)
        return x_adv


def find_steepest_step(view: View, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return v (B, C, H, W), which maximises g^T v at ||J v|| = 1, and the margins (B,) at x.

    g is the gradient of the loss, which is the margin clipped at 1, and J the embedding's Jacobian at x. 5 steps of
    conjugate gradients solve J^T J v = g: J p by finite differences, J^T u by autograd. v is zero where g is.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        margins, embeddings = view.measure(x)
        gradient = take_gradient(margins.clamp_max(MAX_MARGIN).sum(), x, retain_graph=True).nan_to_num(0, 0, 0)

    def apply_jacobian(p: Tensor) -> Tensor:
        size = compute_norms(p)
        unit = p / size.clamp_min(torch.finfo(p.dtype).tiny)
        with torch.no_grad():
            change = view.embed(x + _CG_PROBE * unit) - embeddings
            return change * (size.view(-1, 1) / _CG_PROBE)

    solution = torch.zeros_like(gradient)
    residual = direction = gradient
    squared = _multiply(residual, residual)
    for _ in range(_CG_STEPS):
        applied = take_gradient(embeddings, x, grad_outputs=apply_jacobian(direction), retain_graph=True)
        stride = _divide(squared, _multiply(direction, applied))
        solution = solution + stride * direction
        residual = residual - stride * applied
        previous = squared
        squared = _multiply(residual, residual)
        direction = residual + _divide(squared, previous) * direction
    length = apply_jacobian(solution).norm(dim=1).view(-1, 1, 1, 1)
    return _divide(solution, length), margins.detach()


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).view(-1, 1, 1, 1)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """Compute a / b, or 0 where b is not above 0."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), torch.zeros_like(a))
