"""Projections, steps and starts for linf, l2 and l1 balls around images in [0, 1]: pure functions of (B, ...) tensors.

Arithmetic is float32, or wider if the images are. No function writes into its arguments; each writes in place into
tensors that it created itself, which saves memory traffic and changes no bit. The functions of l2 and l1 sum over
pixels in the order (C, H, W) and return tensors with that memory layout; those of linf keep their arguments' layout.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advcore.rng import Stream


def _compute_norms(flat: Tensor) -> Tensor:
    """Compute l2 norms (B, 1) of (B, D) that neither under- nor overflow."""
    largest = flat.abs().amax(1, keepdim=True).clamp_min_(torch.finfo(flat.dtype).tiny)
    # The sum is in float64: over the pixels of a large image float32 is off by more than 1e-6.
    return largest * (flat / largest).norm(dim=1, keepdim=True, dtype=torch.float64).to(flat)


def _normalise(flat: Tensor) -> Tensor:
    """Scale each example's direction (B, D) to l2 norm 1; zero stays zero."""
    norm = _compute_norms(flat)
    return (flat / norm).masked_fill_((norm > 0).logical_not_(), 0)


def project_linf(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Project x_adv onto the linf ball of radius `eps` around x and onto [0, 1]; all (B, ...)."""
    return (x_adv - x).clamp_(-eps, eps).add_(x).clamp_(0, 1)


def step_linf(x_adv: Tensor, gradient: Tensor, step_size: float) -> Tensor:
    """Move every pixel by `step_size` in the direction of its gradient's sign; a gradient of 0 moves nothing."""
    return gradient.sign().mul_(step_size).add_(x_adv)


def draw_linf(x: Tensor, eps: float, generator: Stream) -> Tensor:
    """Draw uniformly from the ball of radius `eps` around x (B, ...); may leave [0, 1] (`project_linf`)."""
    return x + generator.uniform(tuple(x.shape)).to(x).mul(2).sub_(1).mul_(eps)


def measure_linf(x: Tensor, x_adv: Tensor) -> Tensor:
    """Compute (B,) float64: the largest change of a pixel."""
    return (x_adv.double() - x.double()).flatten(1).abs().amax(1)


def project_l2(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Project x_adv onto the ball of radius `eps` around x, then onto [0, 1]; all (B, ...).

    The second moves every pixel towards x, and so stays in the ball. A point in both stays as it is, bitwise.
    """
    flat_adv, flat = x_adv.flatten(1), x.flatten(1)
    delta = flat_adv - flat
    norm = _compute_norms(delta)
    moved = delta.mul_(torch.where(norm > eps, eps / norm, 1.0)).add_(flat)
    return _finish_projection(flat_adv, moved, flat, eps, power=2).view(x.shape)


def _finish_projection(x_adv: Tensor, moved: Tensor, x: Tensor, eps: float, *, power: int) -> Tensor:
    """Round `moved`, the projection of x_adv, into the ball and into [0, 1]; all (B, D).

    Examples whose x_adv is in both stay as it is, bitwise. `power` is the norm's.
    """
    exact = x.double()
    inside = _compute_powers(exact, x_adv, power).sum(1, keepdim=True) <= eps**power
    inside &= (x_adv.amin(1, keepdim=True) >= 0) & (x_adv.amax(1, keepdim=True) <= 1)
    return torch.where(inside, x_adv, _round_inwards(moved, x, exact=exact, eps=eps, power=power).clamp_(0, 1))


def _compute_powers(exact: Tensor, x_adv: Tensor, power: int) -> Tensor:
    """Compute what each pixel adds to the norm's power: (B, D) float64. `exact` is x in float64."""
    return (x_adv.double() - exact).abs_().pow_(power)


def _round_inwards(moved: Tensor, x: Tensor, *, exact: Tensor, eps: float, power: int) -> Tensor:
    """Move as many pixels of `moved` (B, D) one float nearer to x as are needed to be in the ball, and no more.

    Where many pixels round the same way, as in flat images, rounding can leave the ball. `exact` is x in float64,
    `power` the norm's.
    """
    nearer = torch.nextafter(moved, x)
    before = _compute_powers(exact, moved, power)
    unit = 2.0**60  # running sums of whole numbers are exact, and deterministic on every device
    inside = eps**power * (1 - 1e-14)  # a margin for the rounding of the sum, which depends on its order
    need = (before.sum(1, keepdim=True) - inside).clamp_(0, 1).mul_(unit).long()
    gain = before.sub_(_compute_powers(exact, nearer, power)).mul_(unit).long()
    return torch.where(gain.cumsum(1).sub_(gain) < need, nearer, moved)


def step_l2(x_adv: Tensor, gradient: Tensor, step_size: float) -> Tensor:
    """Move along each example's gradient (B, ...) by l2 length `step_size`; a zero gradient moves nothing."""
    return _normalise(gradient.flatten(1)).mul_(step_size).add_(x_adv.flatten(1)).view(x_adv.shape)


def draw_l2(x: Tensor, eps: float, generator: Stream) -> Tensor:
    """Draw uniformly from the ball of radius `eps` around x (B, ...); may leave [0, 1] (`project_l2`).

    A draw is a uniform direction, and the distance eps u^(1/D).
    """
    radius = generator.child("radius").uniform((len(x), 1)).to(x) ** (1 / x[0].numel())
    direction = _normalise(generator.normal(tuple(x.shape)).to(x).flatten(1))
    return direction.mul_(eps * radius).add_(x.flatten(1)).view(x.shape)


def measure_l2(x: Tensor, x_adv: Tensor) -> Tensor:
    """Compute (B,) float64: l2 norms of the changes."""
    return (x_adv.double() - x.double()).flatten(1).norm(dim=1)


def project_l1(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Project x_adv onto the ball of radius `eps` around x and onto [0, 1] at once; all (B, ...).

    Each pixel's move is shortened by one length, the same for all pixels of an image, and cut where it would leave
    [0, 1] (Croce and Hein 2021, proposition 2.1). Cost O(D log D).
    """
    flat_adv, flat = x_adv.flatten(1), x.flatten(1)
    delta = flat_adv - flat
    size = delta.abs().double()
    room = torch.where(delta > 0, 1 - flat, flat).double().clamp_min_(0)
    length = _find_shortening(size, room, eps)
    moves = torch.minimum((size - length).clamp_min(0), room).to(x) * delta.sign()
    return _finish_projection(flat_adv, moves.add_(flat), flat, eps, power=1).view(x.shape)


def _find_shortening(size: Tensor, room: Tensor, eps: float) -> Tensor:
    """Return (B, 1) the length by which to shorten all moves, so that their sum is at most `eps`; 0 if it is already.

    size, room : (B, D) float64, how far each pixel moves, and how far it can without leaving [0, 1].

    The sum of the moves is a piecewise linear function of the length. As the length falls, a pixel's move grows from 0
    at `size` until it is cut at `size - room`: the sum is followed from breakpoint to breakpoint until it passes eps.
    """
    breakpoints, order = torch.cat([size, (size - room).clamp_min(0)], 1).sort(1, descending=True)
    slopes = torch.where(order < size.shape[1], 1.0, -1.0).double().cumsum(1)
    growth = (slopes[:, :-1] * (breakpoints[:, :-1] - breakpoints[:, 1:])).cumsum(1)
    sums = torch.cat([torch.zeros_like(breakpoints[:, :1]), growth], 1)
    last = (sums < eps).sum(1, keepdim=True).clamp(1, breakpoints.shape[1] - 1) - 1  # the last breakpoint before eps
    missing = eps - sums.gather(1, last)
    length = breakpoints.gather(1, last) - missing / slopes.gather(1, last).clamp_min(1)
    return torch.where(torch.minimum(size, room).sum(1, keepdim=True) <= eps, torch.zeros_like(length), length)


def step_l1(x_adv: Tensor, gradient: Tensor, step_size: float, sparsity: float = 0.05) -> Tensor:
    """Move the pixels with the largest gradients (B, ...), all by the same length, by `step_size` in total.

    `sparsity` is the share of an image's pixels that move, at least one pixel. Those that the gradient would push out
    of [0, 1], or whose gradient is 0, do not move: where too few are left, fewer move, and farther.
    """
    flat, pixels = gradient.flatten(1), x_adv.flatten(1)
    has_room = torch.where(flat > 0, pixels < 1, pixels > 0) & (flat != 0)
    count = max(1, round(sparsity * flat.shape[1]))
    largest = flat.abs().masked_fill(~has_room, -1).topk(count, 1).indices
    moves = torch.zeros_like(flat).scatter_(1, largest, 1.0) * flat.sign() * has_room
    moves = moves / moves.abs().sum(1, keepdim=True).clamp_min(1)
    return x_adv + step_size * moves.view_as(x_adv)


def draw_l1(x: Tensor, eps: float, generator: Stream) -> Tensor:
    """Draw uniformly from the ball of radius `eps` around x (B, ...); may leave [0, 1] (`project_l1`).

    A draw is exponential lengths, divided by the sum of these and one more, with random signs.
    """
    shape = (len(x), 2 * x[0].numel() + 1)
    drawn = generator.uniform(shape).to(x)
    lengths, signs = -torch.log1p(-drawn[:, ::2]), (drawn[:, 1::2] < 0.5).to(x) * 2 - 1
    return x + eps * (lengths[:, :-1] * signs / lengths.sum(1, keepdim=True)).view_as(x)


def measure_l1(x: Tensor, x_adv: Tensor) -> Tensor:
    """Compute (B,) float64: sums of the pixels' absolute changes."""
    return (x_adv.double() - x.double()).flatten(1).abs().sum(1)


@dataclass(frozen=True)
class Geometry:
    """The functions of one threat model.

    project : (x_adv, x, eps), also by name, to the ball around x and [0, 1]. step : (x_adv, gradient, step_size) to the
    next point. start : (x, eps, generator) to a random point of the ball. distance : (x, x_adv) to (B,) norms. power :
    the largest distance of two images is D ** power, D their number of pixels.
    """

    project: Callable[..., Tensor]
    step: Callable[[Tensor, Tensor, float], Tensor]
    start: Callable[[Tensor, float, Stream], Tensor]
    distance: Callable[[Tensor, Tensor], Tensor]
    power: float

    def compute_diameter(self, pixels: float) -> float:
        """Return the largest distance of two images of this number of pixels C H W; no larger eps means anything."""
        return float(pixels**self.power)


LP = {
    "linf": Geometry(project=project_linf, step=step_linf, start=draw_linf, distance=measure_linf, power=0),
    "l2": Geometry(project=project_l2, step=step_l2, start=draw_l2, distance=measure_l2, power=0.5),
    "l1": Geometry(project=project_l1, step=step_l1, start=draw_l1, distance=measure_l1, power=1),
}
