"""The worst case of one attack: is an example classified right at every point that the attack visits?

An example counts as robust only if it is right at the clean image and at every iterate of every restart. Where an
attack leaves its ball on the way (`probes_outside`), only the point that it returns counts. Once an example is
misclassified its loss is held at 0, so that it stands still: more steps of one size, and more restarts, never help the
defence.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from advcore.attacks.base import Attack
from advcore.data.checks import check_labels
from advcore.errors import NonFiniteError
from advcore.evaluation.autoattack import AutoAttack
from advcore.objectives.base import choose_ascent
from advcore.objectives.standard import Pgd
from advcore.rng import Stream


def classify_clean(logits: Tensor, y: Tensor, indices: Tensor) -> Tensor:
    """Return (B,) bool, which examples the clean logits (B, C) classify right.

    `indices` (B,) name the examples in errors. Raises DataError for labels beyond the logits, NonFiniteError for logits
    that are NaN or infinite.
    """
    check_labels(y, indices, logits.shape[1])
    if not bool(torch.isfinite(F.log_softmax(logits, 1)).all()):
        raise NonFiniteError("the model's logits are NaN or infinite; there is no accuracy to report")
    return logits.detach().argmax(1) == y


def find_robust(
    forward: Callable[[Tensor], Tensor],
    attack: Attack | AutoAttack,
    x: Tensor,
    *,
    y: Tensor,
    correct: Tensor,
    stream: Stream,
) -> tuple[Tensor, Tensor]:
    """Attack the examples that are classified right, and return which of them stay right.

    attack : bound to the model that `forward` calls.
    x, y : images (B, C, H, W) and labels (B,).
    correct : (B,) bool, which examples are right at the clean image; the others are not attacked.
    stream : of the attack's draws, bound to the B examples.

    Returns (B,) bool, which examples the attack leaves right; and x_adv (B, C, H, W): where an example was first
    misclassified, else where the attack ended, else (not attacked) the clean image. Restarts run one after another,
    each on the examples still right.
    """
    robust = correct.clone()
    x_adv = x.clone()
    for restart in range(attack.restarts):
        remaining = robust.nonzero()[:, 0]
        if not len(remaining):
            break
        images = x[remaining]
        draws = stream.take(remaining).child("try", restart)
        watched = WatchedLoss(forward, attack, images, y=y[remaining])
        if isinstance(attack, AutoAttack):
            last_points = attack.attack(forward, images, y[remaining], draws)
        else:
            single = attack if attack.restarts <= 1 else attack.with_settings(restarts=1)
            last_points = single(watched, images, generator=draws)
        with torch.no_grad():
            watched.judge(last_points)
        robust[remaining] = ~watched.fooled
        x_adv[remaining] = watched.find_worst_points(last_points).to(x_adv)
    return robust, x_adv


class WatchedLoss:
    """The loss that an attack climbs, which also notes the examples that are misclassified where it is asked for.

    Parameters
    ----------
    forward : images to logits.
    attack : names the loss (`climbs`), and whether it asks for it outside of its ball (`probes_outside`): then only the
        points given to `judge` count. AutoAttack computes its losses itself, and uses `judge` alone.
    x, y : images (B, C, H, W) and labels (B,).

    `fooled` (B,) bool: the examples misclassified so far. Logits that are not finite count as misclassified.
    """

    def __init__(
        self, forward: Callable[[Tensor], Tensor], attack: Attack | AutoAttack, x: Tensor, *, y: Tensor
    ) -> None:
        self._forward = forward
        self._y = y
        self._loss = choose_ascent(Pgd(), getattr(attack, "climbs", "own"), y, None)
        self._every_point_counts = not getattr(attack, "probes_outside", False)
        self.fooled = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        self._first_fooled_at = x

    def __call__(self, x_adv: Tensor) -> Tensor:
        logits = self._forward(x_adv)
        if not self._every_point_counts:
            return self._loss(logits)
        self._note(x_adv, logits)
        return self._loss(logits).masked_fill(self.fooled, 0)

    def judge(self, x_adv: Tensor) -> None:
        """Note which examples are misclassified at x_adv (B, C, H, W), the point that an attack returned."""
        self._note(x_adv, self._forward(x_adv))

    def find_worst_points(self, x_adv: Tensor) -> Tensor:
        """Return (B, C, H, W): where each example was first misclassified, or its image in `x_adv` if it never was."""
        return torch.where(_per_image(self.fooled, x_adv), self._first_fooled_at, x_adv)

    def _note(self, x_adv: Tensor, logits: Tensor) -> None:
        wrong = (logits.argmax(1) != self._y) | ~torch.isfinite(logits).all(1)
        newly_wrong = _per_image(wrong & ~self.fooled, x_adv)
        self._first_fooled_at = torch.where(newly_wrong, x_adv.detach(), self._first_fooled_at)
        self.fooled |= wrong


def _per_image(mask: Tensor, images: Tensor) -> Tensor:
    """Return the mask (B,) as (B, 1, ...), so that it selects whole images."""
    return mask.view(-1, *[1] * (images.ndim - 1))
