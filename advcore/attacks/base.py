"""The interface of an attack, and code that attacks share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import field, make_dataclass, replace
from functools import cache
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from advcore.attacks.memory import Perturbations
from advcore.deprecation import forward_method, forward_renamed
from advcore.errors import ConfigError, SettingProblem, check_at_least, check_within, must, require
from advcore.kinds import find_type_problem
from advcore.rng import Stream
from advcore.runtime.borrow import copy_from_inference
from advcore.settings import setting, settings
from advcore.types import Loss, check_losses
from advcore.unit_range import check_attackable

# What models do that their own gradient does not survive: a part of torch's message, what it means, and the way out.
_FAILURES = {
    "inplace operation": ("one that changes tensors in place that its gradient needs", ""),
    "use_reentrant": ("one with checkpoints of use_reentrant=True", "checkpoint with use_reentrant=False"),
}

# Wraps a network so that its passes are counted.
PassCounter = Callable[[nn.Module], Callable[[Tensor], Tensor]]

_ENOUGH_STEPS = 4  # with fewer, an attack cannot judge a model that was trained with it
_PROBE_STEPS = 10  # of the attack that judges instead
_Kind = TypeVar("_Kind")


@settings
class Attack(ABC):
    """Frozen settings; `attack(loss_fn, x, generator=...)` returns x_adv inside the threat model's ball and [0, 1].

    Parameters
    ----------
    eps : radius of the ball, in its own units, >= 0.

    climbs : name of the loss it wants from the objective (`objectives.base.choose_ascent`).
    norm : of its threat model, for records.
    widest : the largest eps that means anything.
    example : small settings, where the defaults do not do, with which the contract tests build it.
    probes_outside : whether it asks for the loss outside its ball, so that only what it returns counts against a model.
    elementwise : whether it moves each pixel by that pixel's gradient alone, so that images may have any memory layout.
        Without this attribute, an attack receives images in the layout that they have.
    training_only : it may leave the ball (never [0, 1]), and is not fit for evaluation.
    remembers : whether it starts where it ended before (`with_memory`); not fit for evaluation.
    few_steps : whether it has too few steps to judge a model that was trained with it, which may have learned to resist
        just these; `probe` has more.
    restarts : number of independent starts.
    hooks : what an object of another class must have to be used as an attack.

    What an attack needs besides its settings, of a model (`bind`) or of earlier epochs (`with_memory`), is a field of
    the attack that these return, whose class is derived for that: it prints, and is named, like the attack's.
    """

    eps: float = setting(unit="own units")
    climbs: ClassVar[str] = "own"
    norm: ClassVar[str]
    widest: ClassVar[float]
    example: ClassVar[Mapping[str, object]] = {}
    probes_outside: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    hooks: ClassVar[tuple[str, ...]] = ("__call__", "climbs")
    restarts = 1  # not annotated: a subclass may make it a setting, which then comes in that class's order

    @property
    def training_only(self) -> bool:
        return False

    @property
    def remembers(self) -> bool:
        return False

    @property
    def few_steps(self) -> bool:
        return False

    def __post_init__(self) -> None:
        require(self._check_eps(), *self._check_more())

    def _check_eps(self) -> SettingProblem | None:
        return check_within("eps", self.eps, low=0, high=self.widest)

    def _check_more(self) -> list[SettingProblem | None]:
        """Return the problems with the settings that a subclass adds, None for those without."""
        return []

    @abstractmethod
    def __call__(self, loss_fn: Loss, x: Tensor, *, generator: Stream) -> Tensor:
        """Attack `x` (B, C, H, W) in [0, 1]; return x_adv of the same shape. `generator` is bound to the B examples."""

    @abstractmethod
    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Return (B,) float64: how far x_adv is outside the ball around x; at most 0 inside."""

    @abstractmethod
    def passes(self) -> tuple[int, int]:
        """Return the forward and backward passes per example, or an upper bound where they depend on the image."""

    def count_network_passes(self) -> tuple[int, int]:
        """Return how many of the `passes` use a network other than the attacked model, such as external LPIPS."""
        return 0, 0

    @abstractmethod
    def reference(self, steps: int) -> "Attack":
        """Return the attack of the run that relative costs compare with: `steps` steps, one restart."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return what a robust accuracy must state: at least norm, eps, steps, step_size and restarts."""

    def problem(self, shape: tuple[int, int, int]) -> SettingProblem | None:
        """Return what is wrong with these settings for images of `shape` (C, H, W), or None."""
        return None

    def probe(self) -> "Attack":
        """Return the attack that judges a model trained with this one: inside the ball, and of several steps."""
        return self

    def begin(self, x: Tensor, generator: Stream) -> Tensor | None:
        """Return where `rise` starts for x, in float32 or wider, to end where a call would; None for several rises."""
        return None

    def rise(self, loss_fn: Loss, x: Tensor, start: Tensor) -> Tensor:
        """Return the x_adv of one start, without waiting for the device: what one CUDA graph can hold."""
        raise NotImplementedError

    def bind(self, model: nn.Module, count_passes: PassCounter) -> Self:
        """Return the attack with what it needs of the model; most need nothing."""
        return self

    def with_memory(self, memory: Perturbations | None) -> Self:
        """Return the attack with the memory that it starts from, if it `remembers`; without memory it starts afresh."""
        return self

    def with_settings(self, **changes: object) -> Self:
        """Return the attack with other settings, bound to the same model and memory."""
        copy: Callable[..., Self] = replace  # which settings there are is known to the subclass alone
        return copy(self, **changes)

    def scale(self, fraction: float) -> Self:
        """Return the attack in a ball `fraction` as large, for a ramp over the first epochs."""
        return self.with_settings(eps=self.eps * fraction)

    def _attach(self, **parts: object) -> Self:
        """Return the attack together with what it needs besides its settings, each part under its name."""
        return _add_fields(type(self), *parts)(**(vars(self) | parts))

    changed = forward_method("advcore.attacks.base.Attack.changed", "with_settings")
    scaled = forward_method("advcore.attacks.base.Attack.scaled", "scale")
    recalling = forward_method("advcore.attacks.base.Attack.recalling", "with_memory")


@cache
def _add_fields(kind: type[_Kind], *names: str) -> Callable[..., _Kind]:
    """Derive the class of attacks of this kind that hold more than settings: fields that are not compared or shown."""
    fields = [(name, object, field(repr=False, compare=False)) for name in names]
    origin = {"__module__": kind.__module__}
    return make_dataclass(kind.__name__, fields, bases=(kind,), namespace=origin, frozen=True, kw_only=True, repr=False)


def take_input_gradient(loss_fn: Loss, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute per-example losses (B,) and the gradient of each with respect to its own input (B, ...).

    The losses are summed, so an example's gradient does not depend on the size of its batch.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        x = copy_from_inference(x.detach()).requires_grad_(True)
        losses = check_losses(loss_fn(x), x)
        gradient = take_gradient(losses.sum(), x)
    return losses.detach(), gradient


def take_gradient(
    value: Tensor, x: Tensor, *, grad_outputs: Tensor | None = None, retain_graph: bool | None = None
) -> Tensor:
    """Return torch.autograd.grad of `value` with respect to x, as one tensor.

    It is zero where nothing leads from x to `value`, as in a model that rounds to whole numbers or detaches its input
    (which evaluation calls masked, and training refuses). Raises ConfigError for what `_FAILURES` lists.
    """
    if not value.requires_grad:
        return torch.zeros_like(x)
    try:
        return torch.autograd.grad(
            value, x, grad_outputs, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
        )[0]
    except RuntimeError as error:
        for sign, (got, way_out) in _FAILURES.items():
            if sign in str(error):
                raise ConfigError(must("model", "differentiable", got, way_out)) from error
        raise


def to_full_precision(x: Tensor) -> Tensor:
    """Return x as a constant in float32 or wider: half precision cannot represent a point of a ball."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


@settings
class Iterated(Attack):
    """Settings and behaviour of attacks that climb step by step, from one or several starts.

    Parameters
    ----------
    steps : ascent steps, at least 1.
    restarts : independent starts, at least 1; each example keeps the one with the highest loss.
    """

    steps: int = setting(default=10, unit="steps")
    restarts: int = setting(default=1, unit="starts")
    described_settings: ClassVar[tuple[str, ...]] = ()  # further settings that a robust accuracy must state
    example: ClassVar = {"steps": 3}

    def _check_more(self) -> list[SettingProblem | None]:
        return [check_at_least("steps", self.steps, 1), check_at_least("restarts", self.restarts, 1)]

    def __call__(self, loss_fn: Loss, x: Tensor, *, generator: Stream) -> Tensor:
        require(find_type_problem("generator", Stream, generator))
        check_attackable(x)
        x = to_full_precision(x)
        ends = [self._attack_once(loss_fn, x, generator.child("restart", r)) for r in range(self.restarts)]
        if self.restarts == 1:
            return ends[0]
        with torch.no_grad():
            losses = torch.stack([loss_fn(x_adv) for x_adv in ends])
        return torch.stack(ends)[losses.argmax(0), torch.arange(len(x), device=x.device)]

    @abstractmethod
    def _attack_once(self, loss_fn: Loss, x: Tensor, generator: Stream) -> Tensor:
        """Return the x_adv of a single start."""

    def reference(self, steps: int) -> Self:
        return self.with_settings(steps=steps, restarts=1)

    @property
    def few_steps(self) -> bool:
        return self.steps < _ENOUGH_STEPS

    def probe(self) -> Self:
        return self.with_settings(steps=_PROBE_STEPS) if self.few_steps else self

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
        return {
            "norm": self.norm,
            "eps": self.eps,
            "steps": self.steps,
            "step_size": self.length,
            "restarts": self.restarts,
            **{name: getattr(self, name) for name in self.described_settings},
        }


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
        _, gradient = take_input_gradient(loss_fn, x_adv)
        x_adv = project(move(x_adv, gradient))
    return x_adv.detach()


__getattr__ = forward_renamed(__name__, {"Bounded": "advcore.attacks.base.Attack"})
