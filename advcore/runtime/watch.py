"""Watch whether gradients reach the images that an attack moves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advcore.errors import ConfigError, SettingProblem
from advcore.runtime.precision import run_model

ABSENT = "none (as after no_grad, detach, .data, argmax or numpy)"
_ZERO = "0 at every image of the first batch (as after rounding, or by underflow)"


def describe_fault(fault: str) -> SettingProblem:
    """Return the problem with a model of whose loss this gradient reaches the images."""
    way_out = "freeze layers by requires_grad_(False), and leave rounding and detach() out of the model"
    return SettingProblem("model", "must let the loss's gradient reach its images", fault, way_out)


@dataclass(eq=False)
class GradientWatch:
    """A look at the gradients by which an attack climbs, in its first batch; it changes nothing, and costs no pass.

    is_over : whether it no longer looks. is_asked : whether a gradient was asked for.
    sizes : the largest entry of each gradient that arrived at the images.
    """

    is_over: bool = False
    is_asked: bool = False
    sizes: list[Tensor] = field(default_factory=list)

    def watch(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return `forward`, images (B, C, H, W) to logits, as a function whose gradients are looked at."""
        if self.is_over:
            return forward
        return partial(self._run, forward)

    def _run(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not x.requires_grad:
            return forward(x)
        self.is_asked = True
        images = x.view_as(x)
        images.register_hook(self._note)
        return forward(images)

    def _note(self, gradient: Tensor | None) -> None:
        if gradient is not None:  # as behind a quantised layer
            self.sizes.append(gradient.detach().abs().amax())

    def find_fault(self) -> str | None:
        """Return what is wrong with the gradients so far; None if one was not 0, or if none was asked for."""
        if not self.is_asked:
            return None
        if not self.sizes:
            return ABSENT
        if bool(torch.stack(self.sizes).any()):
            return None
        return _ZERO

    def end_batch(self, robust: Tensor) -> None:
        """Look no longer, unless no example was attacked or none is left right in `robust` (B,): no gradient is 0 then.

        Evaluation holds the loss of an example at 0 once it is misclassified.
        """
        if self.is_over or not self.is_asked:
            return
        if bool(robust.any()):
            self.is_over = True
        else:
            self.restart()

    def restart(self) -> None:
        """Forget what was seen, to look at the next batch."""
        self.is_asked = False
        self.sizes.clear()

    def refuse_training(self, model: nn.Module, attack: object, x: Tensor, y: Tensor) -> None:
        """Raise ConfigError where an attack had no gradient to climb: training on its images would be on noise.

        A gradient of 0 is right in a ball without a radius, and where the loss of a certain prediction is flat though
        the cross-entropy at x (B, C, H, W) is not, of labels y (B,). It may be right where a weight is all 0, as in a
        head that starts so: then the next batch is looked at, after a step. Cost: none where all is well.
        """
        if self.is_over:
            return
        fault = self.find_fault()
        if fault == _ZERO and any(not bool(weight.any()) for weight in model.parameters() if weight.ndim > 1):
            self.restart()
            return
        self.is_over = True
        is_right = fault == _ZERO and (getattr(attack, "eps", None) == 0 or _has_gradient(model, x, y))
        if fault is not None and not is_right:
            raise ConfigError(describe_fault(fault))


def _has_gradient(model: nn.Module, x: Tensor, y: Tensor) -> bool:
    images = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        loss = F.cross_entropy(run_model(model, images), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return bool(gradient.any())
