"""Combines objectives and attacks; no other module does."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from advcore.attacks.base import Attack, PassCounter, to_full_precision
from advcore.cost import CostLedger
from advcore.data.checks import explain_narrow_weights
from advcore.errors import ConfigError, SettingProblem, check, must, require
from advcore.kinds import accept_arguments, find_type_problem
from advcore.objectives.base import Objective, choose_ascent, is_attacked, needs_clean, takes_mixed_labels
from advcore.objectives.standard import Pgd
from advcore.pixels import format_pixels
from advcore.rng import Stream
from advcore.runtime.borrow import borrow, copy_from_inference, find_dtype, record_gradients
from advcore.runtime.counted import CountedModel
from advcore.runtime.precision import get_speed, run_model
from advcore.types import describe_tensor, is_ours
from advcore.unit_range import check_attackable, trust_images
from advcore.work import NO_WORK, Work

_SLACK = 1e-4  # of pixels, for rounding

_Bindable = TypeVar("_Bindable")


def bind_attack(attack: _Bindable, model: nn.Module, count_passes: PassCounter) -> _Bindable:
    """Return the attack bound to the model that it attacks (`Attack.bind`).

    An attack without the method `bind` needs nothing, and is returned as it is. `count_passes` wraps a network so that
    its passes are counted.
    """
    bind = getattr(attack, "bind", None)
    return bind(model, count_passes) if bind else attack


@accept_arguments
@record_gradients
def attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    objective: Objective | None = None,
    seed: int | torch.Generator | Stream = 0,
    training: bool = False,
) -> Tensor:
    """Attack a batch of images; return the attacked images, detached, with the shape of x.

    An objective that trains on clean images (`Standard`) gets x itself.

    Parameters
    ----------
    model : images (B, C, H, W) in [0, 1] to logits (B, classes), with its normalisation inside
        (`advcore.models.add_normalization`). It is attacked in eval mode, or in train mode if `training`, and restored:
        modes, buffers and gradients are what they were.
    x, y : (B, C, H, W) floats in [0, 1], which are attacked in the model's dtype, or in float32 if that is wider, and
        labels (B,), on the model's device.
    attack : such as `advcore.attacks.LinfPGD(eps=8 / 255)`.
    objective : whose loss the attack climbs; None for cross-entropy (`Pgd`).
    seed : of the attack's random numbers: an int, which gives the same ones at each call; a generator, from which one
        int is drawn; or a `Stream` that is bound to the examples, as selections use.

    Raises ConfigError for arguments of other kinds, DataError for images that are not in [0, 1].
    Cost: the attack's `passes()`, and one forward pass where it needs the clean logits.
    """
    objective = objective or Pgd()
    require(describe_mismatch(objective, attack), check(x.ndim == 4, "x", "images (B, C, H, W)", tuple(x.shape)))
    if x.dtype.is_floating_point:
        x = x.to(find_dtype(model))
    x = copy_from_inference(x)
    y = copy_from_inference(y)
    ledger = CostLedger()
    forward = ledger.count_passes(model)
    with explain_narrow_weights(model, x), borrow(model, training=training), ledger.phase("attack"):
        bound = bind_attack(attack, model, ledger.count_passes)
        return perturb(forward, objective, bound, x, y, generator=_make_stream(seed, x))


def _make_stream(seed: int | torch.Generator | Stream, x: Tensor) -> Stream:
    """Return random numbers for the images x (B, C, H, W)."""
    if isinstance(seed, Stream):
        return seed
    if isinstance(seed, torch.Generator):
        seed = int(torch.randint(2**62, (), generator=seed, device=seed.device))
    return Stream(seed=seed, purpose="attack").at(torch.arange(len(x), device=x.device))


def perturb(
    forward: Callable[[Tensor], Tensor],
    objective: Objective,
    attack: Attack | None,
    x: Tensor,
    y: Tensor,
    *,
    clean: Tensor | None = None,
    generator: Stream,
) -> Tensor:
    """Return x_adv (B, C, H, W), detached; x itself for an objective that uses no attack.

    Parameters
    ----------
    forward : images to logits, of a model borrowed in the mode in which to attack; or the model itself.
    attack : what climbs, `bound` to the model; may be None for an objective that is not attacked.
    clean : (B, C) logits at x if they are known already; computed here, once, if the attack needs them.
    generator : bound to the B examples.

    Raises DataError for images that are not floats in [0, 1]: normalisation is a layer of the model
    (`advcore.models.add_normalization`).
    """
    attack = _check_arguments(objective, attack, x, y)
    if attack is None:
        return x
    check_attackable(x)
    if isinstance(forward, nn.Module):
        forward = partial(run_model, forward)
    if clean is None and needs_clean(objective, attack.climbs):
        with torch.no_grad():
            clean = forward(x)
    if get_speed().channels_last and getattr(attack, "elementwise", False):
        x = x.contiguous(memory_format=torch.channels_last)  # as its gradients are: mixed layouts are slow to add
    if get_speed().graphed and isinstance(forward, CountedModel) and not forward.model.training:
        x_adv = _perturb_by_graph(forward, objective, attack, x, y, clean=clean, generator=generator)
        if x_adv is not None:
            return x_adv
    loss = choose_ascent(objective, attack.climbs, y, clean)
    with trust_images():
        return check_attacked(attack, x, attack(partial(_compose, loss, forward), x, generator=generator)).detach()


def check_attacked(attack: Attack, x: Tensor, x_adv: Tensor) -> Tensor:
    """Return the attack's result x_adv for images x. Raises ConfigError if it violates the attack's contract.

    Looked at are attacks from elsewhere: images shaped as x, in [0, 1], and, unless the attack is for training only, in
    the ball that it measures itself. Those of advcore are held by tests.
    """
    if is_ours(attack):
        return x_adv
    source = f"what {type(attack).__name__} returns"
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape or not x_adv.is_floating_point():
        raise ConfigError(must(source, f"images {tuple(x.shape)} of floats", describe_tensor(x_adv)))
    low, high = torch.aminmax(x_adv.detach())
    in_range = bool(low >= -_SLACK and high <= 1 + _SLACK)  # not so for NaN
    require(check(in_range, source, "in [0, 1]", f"{low:.4g} to {high:.4g}", "clamp it to [0, 1]"))
    if not getattr(attack, "training_only", False) and hasattr(attack, "excess"):
        excess = float(attack.excess(x, x_adv.detach()).max())
        is_inside = excess <= _SLACK + 0.01 * attack.eps
        require(
            check(is_inside, source, f"in its ball of eps {format_pixels(attack.eps)}", f"a point {excess:.4g} outside")
        )
    return x_adv


def _check_arguments(objective: Objective, attack: Attack | None, x: Tensor, y: Tensor) -> Attack | None:
    """Return the attack; None for an objective that is not attacked.

    Raises ConfigError for objects of other kinds, and for labels that are not one whole number for each image, nor
    shares of the classes that the objective takes.
    """
    require(find_type_problem("objective", Objective, objective))
    if not is_attacked(objective):
        return None
    require(*map(find_type_problem, ("attack", "x", "y"), (Attack, Tensor, Tensor), (attack, x, y)))
    assert attack is not None, "its type is checked"
    are_labels = y.shape == x.shape[:1] and y.dtype == torch.int64
    if takes_mixed_labels(objective) and getattr(attack, "climbs", None) == "own":
        are_labels |= y.ndim == 2 and len(y) == len(x) and y.dtype.is_floating_point
    require(check(are_labels, "y", f"{len(x)} labels of torch.int64, one per image", f"{y.dtype} {tuple(y.shape)}"))
    return attack


def _compose(loss: Callable[[Tensor], Tensor], forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return loss(forward(x))


def _perturb_by_graph(
    forward: CountedModel,
    objective: Objective,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    *,
    clean: Tensor | None,
    generator: Stream,
) -> Tensor | None:
    """Return x_adv by one graph, once there is one; None for an attack that is not one rise (`Attack.begin`)."""
    x = to_full_precision(x)
    start = attack.begin(x, generator) if isinstance(attack, Attack) else None
    if start is None:
        return None
    inputs = [x, start, y] if clean is None else [x, start, y, clean]

    def rise(
        forward: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, y: Tensor, clean: Tensor | None = None
    ) -> Tensor:
        loss = choose_ascent(objective, attack.climbs, y, clean)
        return attack.rise(partial(_compose, loss, forward), x, start)

    return forward.replay_or_run((objective, attack), rise, inputs, attack.passes())


def describe_mismatch(objective: Objective, attack: Attack | None) -> SettingProblem | None:
    """Return why the objective cannot be combined with the attack, as a problem with `attack`; None if it can."""
    if not hasattr(objective, "bind_ascent"):  # 0.1 named the two hooks own and own_needs_clean
        return must("objective", "an objective with loss, bind_ascent and ascent_needs_clean", objective)
    if not is_attacked(objective):
        return None
    if attack is None:
        return must("attack", "set for an objective that is attacked", None)
    if not hasattr(attack, "climbs"):
        return must("attack", "an attack, such as advcore.attacks.LinfPGD(...)", attack)
    if needs_clean(objective, attack.climbs) and getattr(attack, "start", None) == "clean":
        way_out = "the divergence has no gradient at the clean image"
        return must("attack.start", "uniform or gaussian here", "clean", way_out)
    return None


def plan_attack(objective: Objective, attack: Attack | None, *, clean_known: bool = False) -> Work:
    """Count the passes that `perturb` takes per example.

    clean_known : whether `perturb` is called with the clean logits.
    """
    if not is_attacked(objective):
        return NO_WORK
    assert attack is not None, "an objective that is attacked has an attack (`describe_mismatch`)"
    forward, to_images = attack.passes()
    other_forward, other_to_images = attack.count_network_passes()
    clean = int(needs_clean(objective, attack.climbs) and not clean_known)
    return Work(
        forward=forward - other_forward + clean,
        to_images=to_images - other_to_images,
        other_forward=other_forward,
        other_to_images=other_to_images,
    )
