"""What an objective is, and the losses an attack may climb."""

from collections.abc import Callable
from typing import ClassVar, Protocol

from torch import Tensor

from advcore.errors import one_of, require

ASCENTS = ("own", "margin")


class Objective(Protocol):
    """A per-example loss from the logits of its forward passes.

    passes : names of its forward passes, of "clean" and "adversarial"; without the second it is not attacked.
    own_needs_clean : whether the loss its attack climbs is made from the clean logits.
    """

    passes: ClassVar[tuple[str, ...]]
    own_needs_clean: ClassVar[bool]

    def loss(self, y: Tensor, **logits: Tensor) -> Tensor:
        """(B,) losses from labels (B,) and one (B, C) tensor of logits for each name in `passes`."""

    def own(self, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
        """The inner maximisation: adversarial logits (B, C) to (B,)."""


def attacked(objective: Objective) -> bool:
    """Whether the objective looks at attacked images at all."""
    return "adversarial" in objective.passes


def needs_clean(objective: Objective, climbs: str) -> bool:
    """Whether climbing `climbs` ("own" or "margin") takes the clean logits first."""
    return climbs == "own" and objective.own_needs_clean


def ascent(objective: Objective, climbs: str, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The per-example loss of adversarial logits that an attack asks for by name: "own" or "margin"."""
    require(one_of("climbs", climbs, ASCENTS))
    if climbs == "own":
        return objective.own(y, clean)
    return lambda logits: margin(logits, y)


def margin(logits: Tensor, y: Tensor, kappa: float = float("inf")) -> Tensor:
    """(B,) max over k != y of z_k - z_y, clipped above at kappa; above 0 means misclassified.

    Reference: Laidlaw et al. 2021 (PAT), eq. 3.
    """
    of_label = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], float("-inf"))
    return (others.amax(1) - of_label[:, 0]).clamp_max(kappa)
