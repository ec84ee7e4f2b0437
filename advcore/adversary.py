"""The only place where an objective meets an attack."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advcore.attacks.base import Attack, in_full
from advcore.errors import must
from advcore.objectives.base import Objective, ascent, attacked, needs_clean
from advcore.rng import Stream
from advcore.speed import current


def bound(attack: Attack | None, model: nn.Module, counted: Callable) -> Attack | None:
    """The attack with what it needs of the model it is to attack (`Attack.bind`); one without `bind` needs nothing."""
    bind = getattr(attack, "bind", None)
    return bind(model, counted) if bind else attack


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
    """x_adv (B, C, H, W), a constant from here on; x itself for an objective that is not attacked.

    Parameters
    ----------
    forward : images to logits, of a model borrowed in the mode in which to attack.
    attack : what climbs, `bound` to the model; may be None for an objective that is not attacked.
    clean : (B, C) logits at x if they are known already; computed here, once, if the attack needs them.
    generator : bound to the B examples.
    """
    if not attacked(objective):
        return x
    if clean is None and needs_clean(objective, attack.climbs):
        with torch.no_grad():
            clean = forward(x)
    if current().channels_last and getattr(attack, "elementwise", False):
        x = x.contiguous(memory_format=torch.channels_last)  # as its gradients lie: mixed layouts are slow to add
    at_once = _as_a_graph(forward, objective, attack, x, y, clean, generator) if current().graphed else None
    if at_once is not None:
        return at_once
    climbed = ascent(objective, attack.climbs, y, clean)
    return attack(lambda x_adv: climbed(forward(x_adv)), x, generator=generator).detach()


def _as_a_graph(forward, objective, attack, x, y, clean, generator) -> Tensor | None:
    """x_adv by one graph, once there is one; None for an attack or a model that never has one."""
    if not hasattr(attack, "rise") or not hasattr(forward, "replayed") or forward.model.training:
        return None
    x = in_full(x)
    start = attack.begin(x, generator)
    if start is None:
        return None
    known = () if clean is None else (clean,)

    def work(forward: Callable, x: Tensor, start: Tensor, y: Tensor, *known: Tensor) -> Tensor:
        climbed = ascent(objective, attack.climbs, y, *(known or (None,)))
        return attack.rise(lambda x_adv: climbed(forward(x_adv)), x, start)

    return forward.replayed((objective, attack), work, (x, start, y, *known), attack.passes())


def mismatch(objective: Objective, attack: Attack | None) -> str | None:
    """Why the objective cannot be attacked so, as a problem with the setting `attack`; None if it can."""
    if not attacked(objective):
        return None
    if attack is None:
        return must("attack", "set for an objective that is attacked", None)
    if needs_clean(objective, attack.climbs) and getattr(attack, "start", None) == "clean":
        return must(
            "attack.start", "uniform or gaussian here", "clean", "the divergence has no gradient at the clean image"
        )
    return None


def passes(objective: Objective, attack: Attack | None, *, clean_known: bool = False) -> int:
    """Forward and backward passes that `perturb` takes an example."""
    if not attacked(objective):
        return 0
    return sum(attack.passes()) + int(needs_clean(objective, attack.climbs) and not clean_known)
