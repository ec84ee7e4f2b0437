"""LPIPS-bounded attacks (Laidlaw et al. 2021): PPGD, LPA, and Fast-LPA, which PAT trains with."""

import copy
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from advcore.attacks.base import Iterated, gradient_of, input_gradient
from advcore.attacks.lpips import Embedder, between, caught, project
from advcore.errors import ConfigError, at_least, must
from advcore.rng import Stream
from advcore.types import Loss, settings

_NOISE = 0.01  # standard deviation of the start
_PROBE = 0.1  # length of the step by which a direction's LPIPS length is measured
_DECAY = 0.1  # of the step size, from the first step to the last
_CLIP = 1.0  # kappa: PPGD and LPA gain nothing from a margin above it
_CG, _CG_PROBE = 5, 1e-3
_PROJECTION = (21, 10)  # forward and backward passes, at most (`lpips.project`)


@settings
class Perceptual(Iterated):
    """What LPIPS-bounded attacks share.

    Parameters
    ----------
    eps : the LPIPS bound, in [0, 10].
    steps, restarts : see `Iterated`.
    layers : names of the layers whose activations are compared; None finds them: a ResNet's stages, else the last
        activation of each image size.
    network : folder of a run whose `best` model measures the distance (external); None: the attacked model itself does
        (self-bounded). In a library call, `attack.by(module)`.
    correct_only : leave images as they are that are misclassified already, as PAT trains.

    Climbs the margin. Iterates leave the ball; only what is returned is inside. Costs are a self-bounded attack's;
    an external network's passes come on top (`passes`).
    """

    layers: list[str] | None = None
    network: str | None = None
    correct_only: bool = False
    climbs: ClassVar[str] = "margin"
    norm: ClassVar[str] = "lpips"
    probes_outside: ClassVar[bool] = True
    widest: ClassVar[float] = 10.0
    _external: ClassVar[nn.Module | None] = None
    _embedder: ClassVar[Embedder | None] = None

    def by(self, network: nn.Module) -> "Perceptual":
        """The same attack, its distance measured in a frozen copy of `network` instead of the attacked model."""
        return self._with("_external", copy.deepcopy(network).eval().requires_grad_(False))

    def _more_problems(self) -> list[str | None]:
        empty = must("layers", "at least one name", self.layers, "leave it out") if self.layers == [] else None
        return [*super()._more_problems(), empty]

    @property
    def length(self) -> float:
        """LPIPS length of the first step."""
        return self.eps

    def _size(self, done: float) -> float:
        """LPIPS length of a step when the share `done` of the steps is behind."""
        return self.length * _DECAY**done

    @property
    def _both(self) -> int:
        """Passes that losses and distances take: the external network's are its own."""
        return 1 if self._external is None and self.network is None else 2

    def bind(self, model: nn.Module, counted: Callable[[nn.Module], Any]) -> "Perceptual":
        own = self._external is None
        if own and self.network is not None:
            raise ConfigError(must("network", "loaded first (`attack.by(module)`)", self.network))
        network = model if own else self._external
        with caught(network, self.layers):
            pass  # which checks their names
        return self._with("_embedder", Embedder(network, self.layers, None if own else counted(network)))

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        with torch.no_grad():
            embed = self._bound
            return between(embed(x), embed(x_adv)).double() - self.eps

    def describe(self) -> dict:
        network = "own" if self._external is None else type(self._external).__name__
        return super().describe() | {"network": network, "layers": self.layers, "correct_only": self.correct_only}

    @property
    def _bound(self) -> Embedder:
        if self._embedder is None:
            raise ConfigError(must("attack", "bound to a model (`attack.bind(model, counted)`)", type(self).__name__))
        return self._embedder

    def _with(self, name: str, value: object) -> "Perceptual":
        new = self.changed()
        new.__dict__[name] = value
        return new

    def _attack_once(self, loss_fn: Loss, x: Tensor, generator: Stream) -> Tensor:
        with torch.no_grad():
            margins, clean = self._bound.both(loss_fn, x)

        def seen(z: Tensor, margins: bool = True) -> Seen:
            own, found = self._bound.both(loss_fn, z) if margins else (None, self._bound.alone(loss_fn, z))
            return Seen(own, found, between(found, clean))

        start = (x + _NOISE * generator.normal(tuple(x.shape)).to(x)).clamp(0, 1)
        x_adv = self._found(seen, x, start)
        return torch.where((margins > 0).view(-1, 1, 1, 1), x, x_adv) if self.correct_only else x_adv

    def _found(self, seen: Callable[[Tensor], "Seen"], x: Tensor, x_adv: Tensor) -> Tensor:
        """x_adv from a noisy start, which is given."""
        raise NotImplementedError

    def _inside(self, seen: Callable, x: Tensor, x_adv: Tensor) -> Tensor:
        return project(lambda z: seen(z, margins=False).distances, x, x_adv, self.eps)


class Seen(NamedTuple):
    """Of images: margins (B,), if they were asked for, embeddings (B, F), and distances (B,) from the clean ones."""

    margins: Tensor | None
    embeddings: Tensor
    distances: Tensor


def ascend(
    seen: Callable, x_adv: Tensor, *, penalty: Tensor | float, eps: float, size: float, clip: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the Lagrangian: up the margin less `penalty` x the distance's excess, along the input gradient, as
    far as makes an LPIPS length of `size`, measured by a probe. Also margins and distances before it.

    Reference: Laidlaw et al. 2021, algorithm 2.
    """
    now: list[Seen] = []

    def lagrangian(z: Tensor) -> Tensor:
        now[:] = [seen(z)]
        return now[0].margins.clamp_max(clip) - penalty * (now[0].distances - eps).relu()

    _, gradient = input_gradient(lagrangian, x_adv)
    margins, embeddings, distances = (part.detach() for part in now[0])
    direction = (gradient / (_norm(gradient) + 1e-8)).nan_to_num(0, 0, 0)
    with torch.no_grad():
        probed = seen(x_adv + _PROBE * direction, margins=False).embeddings
    rate = between(probed, embeddings).view(-1, 1, 1, 1) / _PROBE
    return (x_adv + direction * (size / (rate + 1e-4))).clamp(0, 1), margins, distances


@settings
class FastLPA(Perceptual):
    """Fast Lagrangian perceptual attack: one round, step size and penalty on a schedule. What PAT trains with.

    Parameters
    ----------
    project : bring the result back into the ball; as published it is not, and is then for training only. What
        the last step gives is projected, and may be worse than an iterate before it.

    Cost: 2 steps + 1 forward and `steps` backward passes an example; the projection at most 21 and 10 more.
    Reference: Laidlaw et al. 2021, algorithm 3 (margin not clipped).
    """

    project: bool = False

    @property
    def training_only(self) -> bool:
        return not self.project

    def probe(self) -> "FastLPA":
        return super().probe().changed(project=True)

    def _count_passes_once(self) -> tuple[int, int]:
        more = _PROJECTION if self.project else (0, 0)
        return self._both + (self._both + 1) * self.steps + more[0], self._both * self.steps + more[1]

    def _found(self, seen: Callable[[Tensor], Seen], x: Tensor, x_adv: Tensor) -> Tensor:
        for step in range(self.steps):
            done = step / self.steps
            penalty = 10 * 0.1 ** (1 - done)
            x_adv, _, _ = ascend(seen, x_adv, penalty=penalty, eps=self.eps, size=self._size(done), clip=float("inf"))
        return self._inside(seen, x, x_adv) if self.project else x_adv


@settings
class LPA(Perceptual):
    """Lagrangian perceptual attack: rounds of ascent under a penalty for leaving the ball, projected at the end.

    After each round the penalty of images outside the ball grows tenfold. Images that are misclassified inside it stand
    still.

    Parameters
    ----------
    steps : of a round, at least 1.
    rounds : of the search for the penalty, which begins at 0.01; at least 1.

    Cost: at most rounds x (2 steps + 1) forward and rounds x steps backward passes, and the projection.
    Reference: Laidlaw et al. 2021, algorithm 2.
    """

    steps: int = 40
    rounds: int = 5

    def _more_problems(self) -> list[str | None]:
        return [*super()._more_problems(), at_least("rounds", self.rounds, 1)]

    def _count_passes_once(self) -> tuple[int, int]:
        forward, backward = self.rounds * ((self._both + 1) * self.steps + 1), self.rounds * self.steps * self._both
        return self._both + forward + _PROJECTION[0], backward + _PROJECTION[1]

    def _found(self, seen: Callable[[Tensor], Seen], x: Tensor, x_adv: Tensor) -> Tensor:
        penalty = torch.full((len(x),), 0.01, device=x.device, dtype=x.dtype)
        for _ in range(self.rounds):
            for step in range(self.steps):
                size = self._size(step / self.steps)
                moved, margins, distances = ascend(seen, x_adv, penalty=penalty, eps=self.eps, size=size, clip=_CLIP)
                moving = (margins <= 0) | (distances > self.eps)
                x_adv = torch.where(moving.view(-1, 1, 1, 1), moved, x_adv)
                if not bool(moving.any()):
                    return self._inside(seen, x, x_adv)
            with torch.no_grad():
                distances = seen(x_adv, margins=False).distances
            penalty = torch.where(distances > self.eps, 10 * penalty, penalty)
        return self._inside(seen, x, x_adv)

    def describe(self) -> dict:
        return super().describe() | {"rounds": self.rounds}


@settings
class PPGD(Perceptual):
    """Perceptual PGD: steps of a given LPIPS length, each projected; misclassified images stand still.

    A step is the ascent direction of that length to first order, found by conjugate gradients on J^T J, J the
    embedding's Jacobian.

    Cost: a step takes 7 forward and 6 backward passes, and the projection at most 21 and 10 more.
    Reference: Laidlaw et al. 2021, algorithm 1.
    """

    steps: int = 40

    @property
    def length(self) -> float:
        """LPIPS length of a step."""
        return 2 * self.eps / self.steps

    def _count_passes_once(self) -> tuple[int, int]:
        forward, backward = self._both + _CG + 1 + _PROJECTION[0], 1 + _CG + _PROJECTION[1]
        return self._both + _PROJECTION[0] + self.steps * forward, _PROJECTION[1] + self.steps * backward

    def _found(self, seen: Callable[[Tensor], Seen], x: Tensor, x_adv: Tensor) -> Tensor:
        x_adv = self._inside(seen, x, x_adv)
        for _ in range(self.steps):
            step, margins = steepest(seen, x_adv)
            moving = margins <= 0  # the others are misclassified inside the ball, and stand still
            if not bool(moving.any()):
                break
            moved = self._inside(seen, x, x_adv + self.length * step)
            x_adv = torch.where(moving.view(-1, 1, 1, 1), moved, x_adv)
        return x_adv


def steepest(seen: Callable, x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W): the v that maximises g^T v at ||J v|| = 1, from 5 steps of conjugate gradients on J^T J v = g, g
    the loss's gradient and J the embedding's Jacobian at x (J p by finite differences, J^T u by autograd).

    Zero where g is. Also the margins (B,) at x, which are the loss, clipped at 1.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        now = seen(x)
        found = now.embeddings
        gradient = gradient_of(now.margins.clamp_max(_CLIP).sum(), x, retain_graph=True)
    still, gradient = found.detach(), gradient.nan_to_num(0, 0, 0)

    def forwards(p: Tensor) -> Tensor:
        size = _norm(p)
        unit = p / size.clamp_min(torch.finfo(p.dtype).tiny)
        with torch.no_grad():
            probed = seen(x + _CG_PROBE * unit, margins=False).embeddings
            return (probed - still) * (size.view(-1, 1) / _CG_PROBE)

    v, residual = torch.zeros_like(gradient), gradient
    p, squared = residual, _dot(residual, residual)
    for _ in range(_CG):
        applied = gradient_of(found, x, grad_outputs=forwards(p), retain_graph=True)
        stride = _over(squared, _dot(p, applied))
        v, residual = v + stride * p, residual - stride * applied
        before, squared = squared, _dot(residual, residual)
        p = residual + _over(squared, before) * p
    length = forwards(v).norm(dim=1).view(-1, 1, 1, 1)
    return _over(v, length), now.margins.detach()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).view(-1, 1, 1, 1)


def _norm(a: Tensor) -> Tensor:
    return a.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _over(a: Tensor, b: Tensor) -> Tensor:
    """a / b, 0 where b is not above 0."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), torch.zeros_like(a))
