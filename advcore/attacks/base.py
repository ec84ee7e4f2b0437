"""The contract of an attack, and what attacks share."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from advcore.attacks.memory import Perturbations
from advcore.errors import SettingProblem, check_at_least, check_within, require
from advcore.rng import Stream
from advcore.settings import settings
from advcore.types import Loss

Counted = Callable[[nn.Module], Callable[[Tensor], Tensor]]
"""Wraps a network so that its passes are counted."""

_ENOUGH_STEPS = 4  # with fewer, an attack cannot judge a model that was trained with it
_PROBE_STEPS = 10  # of the attack that judges instead


class Attack(Protocol):
    """Frozen settings; `attack(loss_fn, x, generator=...)` returns x_adv inside the threat model's ball and [0, 1].

    climbs : name of the loss it wants from the objective (`objectives.base.choose_ascent`).
    norm : of its threat model, for records.
    eps : radius of its ball, in its own units.
    training_only : it may leave the ball (never [0, 1]), and is not fit for evaluation.
    probes_outside : whether it asks for the loss outside its ball, so that only what it returns counts against a model.
    restarts : number of independent starts.
    remembers : whether it starts where it ended before (`recalling`); not fit for evaluation.
    few_steps : whether it has too few steps to judge a model that was trained with it, which may have learned to resist
        just these; `probe` has more.
    elementwise : whether it moves each pixel by that pixel's gradient alone, so that images may have any memory layout.
        Without this attribute, an attack receives images in the layout that they have.
    """

    climbs: ClassVar[str]
    norm: ClassVar[str]
    probes_outside: ClassVar[bool]
    elementwise: ClassVar[bool]

    # attacks are frozen, and may compute these: they are to be read alone

    @property
    def eps(self) -> float: ...

    @property
    def training_only(self) -> bool: ...

    @property
    def restarts(self) -> int: ...

    @property
    def remembers(self) -> bool: ...

    @property
    def few_steps(self) -> bool: ...

    def __call__(self, loss_fn: Loss, x: Tensor, *, generator: Stream) -> Tensor:
        """Attack `x` (B, C, H, W) in [0, 1]; return x_adv of the same shape. `generator` is bound to the B examples."""

    def bind(self, model: nn.Module, counted: Counted) -> "Attack":
        """Return the attack with what it needs of the model; most need nothing.

        `counted` wraps a network so that its passes are counted.
        """

    def recalling(self, memory: Perturbations | None) -> "Attack":
        """Return the attack with the memory that it starts from, if it `remembers`; without memory it starts anew."""

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Return (B,) float64: how far x_adv is outside the ball around x; at most 0 inside."""

    def changed(self, **changes: object) -> "Attack":
        """Return the attack with other settings, bound to the same model and memory."""

    def scaled(self, fraction: float) -> "Attack":
        """Return the attack in a ball `fraction` as large, for a ramp over the first epochs."""

    def passes(self) -> tuple[int, int]:
        """Return the forward and backward passes per example; the most it can take, where that depends on the image."""

    def reference(self, steps: int) -> "Attack":
        """Return the attack of the run that relative costs compare with: `steps` steps, one restart."""

    def probe(self) -> "Attack":
        """Return the attack that judges a model trained with this one: inside the ball, and of several steps."""

    def problem(self, shape: tuple[int, int, int]) -> SettingProblem | None:
        """Return what is wrong with these settings for images of `shape` (C, H, W), or None."""

    def describe(self) -> dict[str, object]:
        """Return what a robust accuracy must state: at least norm, eps, steps, step_size and restarts."""


def input_gradient(loss_fn: Loss, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute per-example losses (B,) and the gradient of each with respect to its own input (B, ...).

    The losses are summed, so an example's gradient does not depend on the size of its batch.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        losses = loss_fn(x)
        gradient = gradient_of(losses.sum(), x)
    return losses.detach(), gradient


def gradient_of(
    value: Tensor, x: Tensor, *, grad_outputs: Tensor | None = None, retain_graph: bool | None = None
) -> Tensor:
    """Return torch.autograd.grad of `value` with respect to x, as one tensor.

    It is zero where nothing leads from x to `value`, as in a model that rounds to whole numbers or detaches its input
    (which `evaluation.checks` calls masked).
    """
    if not value.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(
        value, x, grad_outputs, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
    )[0]


def to_full_precision(x: Tensor) -> Tensor:
    """Return x as a constant in float32 or wider: half precision cannot represent a point of a ball."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


@settings
class Bounded:
    """Settings and behaviour that attacks in a ball share.

    Parameters
    ----------
    eps : radius of the ball, in its own units, >= 0.
    """

    eps: float
    climbs: ClassVar[str] = "own"
    probes_outside: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    described_settings: ClassVar[tuple[str, ...]] = ()  # further settings that a robust accuracy must state
    restarts = 1  # not annotated: a subclass may make it a setting, which then comes in that class's order
    norm: ClassVar[str]
    widest: ClassVar[float]  # the largest eps that means anything

    @property
    def training_only(self) -> bool:
        return False

    @property
    def remembers(self) -> bool:
        return False

    @property
    def few_steps(self) -> bool:
        return False

    def __post_init__(self):
        require(self._eps_problem(), *self._more_problems())

    def _eps_problem(self) -> SettingProblem | None:
        return check_within("eps", self.eps, low=0, high=self.widest)

    def _more_problems(self) -> list[SettingProblem | None]:
        """Return the problems with the settings that a subclass adds, None for those without."""
        return []

    def problem(self, shape: tuple[int, int, int]) -> SettingProblem | None:
        return None

    def bind(self, model: nn.Module, counted: Counted) -> Self:
        return self

    def recalling(self, memory: Perturbations | None) -> Self:
        return self

    def probe(self) -> "Bounded":
        return self

    def changed(self, **changes: object) -> Self:
        copy: Callable[..., Self] = replace  # which settings there are is known to the subclass alone
        changed = copy(self, **changes)
        # what the attack is bound to is stored beside the settings, under names with an underscore
        changed.__dict__.update({name: value for name, value in self.__dict__.items() if name.startswith("_")})
        return changed

    def _with_private(self, name: str, value: object) -> Self:
        """Return the attack bound to `value`, which is stored under a name with an underscore."""
        bound = self.changed()
        bound.__dict__[name] = value
        return bound

    def scaled(self, fraction: float) -> Self:
        return self.changed(eps=self.eps * fraction)


@settings
class Iterated(Bounded):
    """Settings and behaviour of attacks that climb step by step, from one or several starts.

    Parameters
    ----------
    steps : ascent steps, at least 1.
    restarts : independent starts, at least 1; each example keeps the one with the highest loss.
    """

    steps: int = 10
    restarts: int = 1

    def _more_problems(self) -> list[SettingProblem | None]:
        return [check_at_least("steps", self.steps, 1), check_at_least("restarts", self.restarts, 1)]

    def __call__(self, loss_fn: Loss, x: Tensor, *, generator: Stream) -> Tensor:
        x = to_full_precision(x)
        ends = [self._attack_once(loss_fn, x, generator.child("restart", r)) for r in range(self.restarts)]
        if self.restarts == 1:
            return ends[0]
        with torch.no_grad():
            losses = torch.stack([loss_fn(x_adv) for x_adv in ends])
        return torch.stack(ends)[losses.argmax(0), torch.arange(len(x), device=x.device)]

    def _attack_once(self, loss_fn: Loss, x: Tensor, generator: Stream) -> Tensor:
        """Return the x_adv of a single start."""
        raise NotImplementedError

    def reference(self, steps: int) -> Self:
        return self.changed(steps=steps, restarts=1)

    @property
    def few_steps(self) -> bool:
        return self.steps < _ENOUGH_STEPS

    def probe(self) -> Self:
        return self.changed(steps=_PROBE_STEPS) if self.few_steps else self

    def passes(self) -> tuple[int, int]:
        forward, backward = self._count_passes_once()
        if self.restarts > 1:
            forward += 1  # the ends of the restarts are compared
        return self.restarts * forward, self.restarts * backward

    def _count_passes_once(self) -> tuple[int, int]:
        """Return the forward and backward passes of a single start: one of each per step."""
        return self.steps, self.steps

    @property
    def length(self) -> float:
        """Length of a step, in the units of eps."""
        return 2.5 * self.eps / self.steps

    def describe(self) -> dict[str, object]:
        common = {
            "norm": self.norm,
            "eps": self.eps,
            "steps": self.steps,
            "step_size": self.length,
            "restarts": self.restarts,
        }
        return common | {name: getattr(self, name) for name in self.described_settings}


def climb(
    loss_fn: Loss,
    start: Tensor,
    *,
    steps: int,
    move: Callable[[Tensor, Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
) -> Tensor:
    """Move along the gradient of the per-example loss, then project; repeat `steps` times. The loop of every PGD.

    start : (B, ...), projected first. move : (x_adv, gradient), both (B, ...), to the next point. project : a point to
    the nearest in the ball. Cost: one forward and one backward pass per example and step.
    """
    x_adv = project(start)
    for _ in range(steps):
        _, gradient = input_gradient(loss_fn, x_adv)
        x_adv = project(move(x_adv, gradient))
    return x_adv.detach()
