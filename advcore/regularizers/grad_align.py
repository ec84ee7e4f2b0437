"""GradAlign: the loss's gradient at an image should point as it does at a random point of the ball around it."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advcore.attacks.base import Attack, to_full_precision
from advcore.attacks.geometry import LP
from advcore.errors import SettingProblem, must
from advcore.objectives.base import Objective, compute_losses
from advcore.regularizers.base import Examples, Regularizer
from advcore.runtime.counted import CountedModel
from advcore.settings import setting, settings
from advcore.work import Work


@settings
class GradAlign(Regularizer):
    """Penalise 1 - cos of the loss's input gradients at x and at x + eta, eta uniform in the training attack's ball.

    The gradient at x is a constant, as in the authors' code: they see no substantial difference, and it saves a double
    backward pass. An example one of whose gradients is 0 has no angle, and no penalty.

    Parameters
    ----------
    weight : lambda of the paper, above 0; the authors have 0.2 for CIFAR-10 at 8/255, and 2 at 16/255.

    Cost per example: at x and at x + eta one forward and one backward pass each, and a double backward pass, which
    counts as two: it runs through the gradient's graph, then through the forward pass's, each time to the weights and
    to what is before them.
    Reference: Andriushchenko and Flammarion 2020, section 5, eq. 4; tml-epfl/understanding-fast-adv-training, train.py.
    Differs: the mean is over all examples, where the code leaves out those without an angle; any lp ball. x + eta may
    leave [0, 1], as there.
    """

    weight: float = setting(default=0.2, unit="unit-free")
    single_image: ClassVar[bool] = True
    differentiates_twice: ClassVar[bool] = True

    def find_problem(self, objective: Objective, attack: Attack | None) -> SettingProblem | None:
        problem = super().find_problem(objective, attack)
        if problem is None and attack is not None and attack.norm not in LP:
            rule = f"null for an attack that has no lp ball ({', '.join(LP)})"
            return must("regularizer", rule, type(attack).__name__)
        return problem

    def penalize(self, model: CountedModel, examples: Examples, logits: Mapping[str, Tensor]) -> Tensor:
        (name,) = examples.objective.passes
        attack = examples.attack
        x = to_full_precision(examples.clean)

        def loss(logits: Tensor) -> Tensor:
            return compute_losses(examples.objective, examples.y, **{name: logits})

        noisy = LP[attack.norm].start(x, attack.eps, examples.stream.child("alignment"))
        fixed = model.differentiate(loss, x, in_graph=False)
        return measure_misalignment(fixed, model.differentiate(loss, noisy, in_graph=True))

    def plan(self) -> Work:
        return Work(forward=2, to_images=2, double=1)


def measure_misalignment(first: Tensor, second: Tensor) -> Tensor:
    """Return (B,) 1 minus the cosine of two gradients (B, ...) of each example; 0 where either is 0.

    Each is divided by its largest entry first, so that no norm underflows.
    """
    first, second = first.flatten(1), second.flatten(1)
    has_angle = (first != 0).any(1) & (second != 0).any(1)
    return torch.where(has_angle, 1 - F.cosine_similarity(_scale(first), _scale(second), dim=1), 0)


def _scale(flat: Tensor) -> Tensor:
    largest = flat.detach().abs().amax(1, keepdim=True)
    return flat / largest.clamp_min(torch.finfo(flat.dtype).tiny)
