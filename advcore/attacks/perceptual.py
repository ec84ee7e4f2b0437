"""LPIPS-bounded attacks on a Lagrangian (Laidlaw et al. 2021): LPA, and Fast-LPA, which PAT trains with."""

import copy
from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from advcore.attacks.base import Iterated, PassCounter, take_gradient
from advcore.attacks.lpips import Embedder, View, compare_embeddings, project
from advcore.errors import ConfigError, SettingProblem, check, check_at_least, must
from advcore.rng import Stream
from advcore.settings import setting, settings
from advcore.types import Loss

_NOISE = 0.01  # standard deviation of the start
_PROBE = 0.1  # length of the step by which a direction's LPIPS length is measured
_DECAY = 0.1  # of the step size, from the first step to the last
MAX_MARGIN = 1.0  # kappa: PPGD and LPA gain nothing from a margin above it
PROJECTION = (21, 10)  # forward and backward passes, at most (`lpips.project`)


@settings
class Perceptual(Iterated):
    """Settings and behaviour that LPIPS-bounded attacks share.

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

    eps: float = setting(unit="LPIPS")
    layers: list[str] | None = None
    network: str | None = None
    correct_only: bool = False
    climbs: ClassVar[str] = "margin"
    norm: ClassVar[str] = "lpips"
    probes_outside: ClassVar[bool] = True
    widest: ClassVar[float] = 10.0
    example: ClassVar = {"eps": 0.3, "steps": 3}
    external: ClassVar[nn.Module | None] = None  # a field once there is one (`by`)
    embedder: ClassVar[Embedder | None] = None  # a field of a bound attack

    def by(self, network: nn.Module) -> Self:
        """Return the attack with its distance measured in a frozen copy of `network`, not in the attacked model."""
        return self._attach(external=copy.deepcopy(network).eval().requires_grad_(False))

    def _check_more(self) -> list[SettingProblem | None]:
        return [
            *super()._check_more(),
            check(self.layers != [], "layers", "at least one name", self.layers, "leave it out"),
        ]

    @property
    def length(self) -> float:
        """LPIPS length of the first step."""
        return self.eps

    @property
    def _passes_to_observe(self) -> int:
        """Passes that margins and distances of an image take together: an external network adds one."""
        return 1 if self.external is None and self.network is None else 2

    def count_network_passes(self) -> tuple[int, int]:
        if self._passes_to_observe == 1:
            return 0, 0
        forward, backward = self._count_passes_once()
        of_model = self._count_observations()
        return self.restarts * (forward - of_model[0]), self.restarts * (backward - of_model[1])

    @abstractmethod
    def _count_observations(self) -> tuple[int, int]:
        """Return how often a single start observes images, and how often with a gradient: passes of the model."""

    def bind(self, model: nn.Module, count_passes: PassCounter) -> Self:
        if self.external is None and self.network is not None:
            raise ConfigError(must("network", "loaded first (`attack.by(module)`)", self.network))
        if self.external is None:
            return self._attach(embedder=Embedder(model, self.layers))
        return self._attach(embedder=Embedder(self.external, self.layers, count_passes(self.external)))

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        embedder = self._bound_embedder
        with torch.no_grad():
            return compare_embeddings(embedder(x), embedder(x_adv)).double() - self.eps

    def describe(self) -> dict[str, object]:
        network = "own" if self.external is None else type(self.external).__name__
        return super().describe() | {"network": network, "layers": self.layers, "correct_only": self.correct_only}

    @property
    def _bound_embedder(self) -> Embedder:
        if self.embedder is None:
            raise ConfigError(must("attack", "bound to a model (`attack.bind(model, counted)`)", type(self).__name__))
        return self.embedder

    def _attack_once(self, loss_fn: Loss, x: Tensor, generator: Stream) -> Tensor:
        view = View(self._bound_embedder, loss_fn, x)
        start = (x + _NOISE * generator.normal(tuple(x.shape)).to(x)).clamp(0, 1)
        x_adv = self._search(view, x, start)
        return torch.where((view.clean_losses > 0).view(-1, 1, 1, 1), x, x_adv) if self.correct_only else x_adv

    @abstractmethod
    def _search(self, view: View, x: Tensor, x_adv: Tensor) -> Tensor:
        """Return the adversarial images, from the noisy start `x_adv`."""


def ascend(
    view: View, x_adv: Tensor, *, penalty: Tensor | float, eps: float, size: float, clip: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step up the Lagrangian: the margin, clipped above at `clip`, less `penalty` x the distance's excess.

    The step follows the input gradient, as far as makes an LPIPS length of `size`, which a probe measures.

    Returns the next point (B, C, H, W), and margins and distances (B,) before the step.
    Reference: Laidlaw et al. 2021, algorithm 2.
    """
    x_adv = x_adv.detach().requires_grad_(True)
    with torch.enable_grad():
        margins, embeddings = view.measure(x_adv)
        distances = compare_embeddings(embeddings, view.clean_embeddings)
        lagrangian = margins.clamp_max(clip) - penalty * (distances - eps).relu()
        gradient = take_gradient(lagrangian.sum(), x_adv)
    direction = (gradient / (compute_norms(gradient) + 1e-8)).nan_to_num(0, 0, 0)
    with torch.no_grad():
        rate = compare_embeddings(view.embed(x_adv + _PROBE * direction), embeddings).view(-1, 1, 1, 1) / _PROBE
        moved = (x_adv + direction * (size / (rate + 1e-4))).clamp(0, 1)
    return moved, margins.detach(), distances.detach()


@settings
class FastLPA(Perceptual):
    """Fast Lagrangian perceptual attack: one round, step size and penalty on a schedule. What PAT trains with.

    Parameters
    ----------
    project : search inside the ball: each step is brought back into it, and the best iterate is returned. As published
        nothing is brought back, and the attack is for training only.

    Cost: 2 steps + 1 forward and `steps` backward passes per example; with `project` one forward pass more, and at most
    21 and 10 for each step.
    Reference: Laidlaw et al. 2021, algorithm 3 (margin not clipped). Differs: `project` is ours.
    """

    project: bool = False

    @property
    def training_only(self) -> bool:
        return not self.project

    def probe(self) -> Self:
        return super().probe().with_settings(project=True)

    def _count_passes_once(self) -> tuple[int, int]:
        forward = self._passes_to_observe + (self._passes_to_observe + 1) * self.steps
        backward = self._passes_to_observe * self.steps
        if not self.project:
            return forward, backward
        return forward + self._passes_to_observe + PROJECTION[0] * self.steps, backward + PROJECTION[1] * self.steps

    def _count_observations(self) -> tuple[int, int]:
        return 1 + self.steps + int(self.project), self.steps

    def _search(self, view: View, x: Tensor, x_adv: Tensor) -> Tensor:
        best = _Best(x, view.clean_losses)
        for step in range(self.steps):
            done = step / self.steps
            penalty = 10 * 0.1 ** (1 - done)
            size = self.length * _DECAY**done
            moved, margins, distances = ascend(view, x_adv, penalty=penalty, eps=self.eps, size=size, clip=float("inf"))
            if self.project:
                best.offer(x_adv, margins, inside=distances <= self.eps)
                moved = project(view.measure_distances, x, moved, self.eps)
            x_adv = moved
        if not self.project:
            return x_adv
        with torch.no_grad():
            best.offer(x_adv, view.measure(x_adv)[0])
        return best.images


class _Best:
    """The images with the largest margins among those that were offered, separately for each example.

    images : (B, C, H, W), at first the clean ones. margins : (B,), theirs. One that is not finite is the largest: the
        model has no prediction there.
    """

    def __init__(self, x: Tensor, margins: Tensor) -> None:
        self.images = x
        self._margins = margins

    def offer(self, x_adv: Tensor, margins: Tensor, inside: Tensor | bool = True) -> None:
        """Keep those of the images x_adv that are `inside` the ball and have larger margins."""
        is_better = ~(margins <= self._margins) & inside
        self.images = torch.where(is_better.view(-1, 1, 1, 1), x_adv, self.images)
        self._margins = torch.where(is_better, margins, self._margins)


@settings
class LPA(Perceptual):
    """Lagrangian perceptual attack: rounds of ascent under a penalty for leaving the ball, projected at the end.

    After each round the penalty of images outside the ball grows tenfold. Images that are misclassified inside it do
    not move any more.

    Parameters
    ----------
    steps : of a round, at least 1.
    rounds : of the search for the penalty, which begins at 0.01; at least 1.

    Cost: at most rounds x (2 steps + 1) forward and rounds x steps backward passes, and the projection.
    Reference: Laidlaw et al. 2021, algorithm 2.
    """

    steps: int = setting(default=40, unit="steps")
    rounds: int = setting(default=5, unit="rounds")
    example: ClassVar = {"eps": 0.3, "steps": 3, "rounds": 2}

    def _check_more(self) -> list[SettingProblem | None]:
        return [*super()._check_more(), check_at_least("rounds", self.rounds, 1)]

    def _count_passes_once(self) -> tuple[int, int]:
        forward = self.rounds * ((self._passes_to_observe + 1) * self.steps + 1)
        backward = self.rounds * self.steps * self._passes_to_observe
        return self._passes_to_observe + forward + PROJECTION[0], backward + PROJECTION[1]

    def _count_observations(self) -> tuple[int, int]:
        return 1 + self.rounds * self.steps, self.rounds * self.steps

    def _search(self, view: View, x: Tensor, x_adv: Tensor) -> Tensor:
        penalty = torch.full((len(x),), 0.01, device=x.device, dtype=x.dtype)
        for _ in range(self.rounds):
            for step in range(self.steps):
                size = self.length * _DECAY ** (step / self.steps)
                moved, margins, distances = ascend(
                    view, x_adv, penalty=penalty, eps=self.eps, size=size, clip=MAX_MARGIN
                )
                moving = (margins <= 0) | (distances > self.eps)
                x_adv = torch.where(moving.view(-1, 1, 1, 1), moved, x_adv)
                if not bool(moving.any()):
                    return project(view.measure_distances, x, x_adv, self.eps)
            with torch.no_grad():
                distances = view.measure_distances(x_adv)
            penalty = torch.where(distances > self.eps, 10 * penalty, penalty)
        return project(view.measure_distances, x, x_adv, self.eps)

    def describe(self) -> dict[str, object]:
        return super().describe() | {"rounds": self.rounds}


def compute_norms(a: Tensor) -> Tensor:
    """Compute (B, 1, 1, 1), the l2 norm of each image."""
    return a.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
