"""The worst case of one attack: is an example classified right at every point that the attack visits?

An example counts as robust only if it is right at the clean image and at every iterate of every restart. Where an
attack leaves its ball on the way (`probes_outside`), only the point that it returns counts. Once an example is
misclassified its loss is held at 0, so that it stays still: more steps of one size, and more restarts, never help the
defence.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from advcore.adversary import check_attacked
from advcore.attacks.base import Attack
from advcore.data.checks import check_labels
from advcore.errors import NonFiniteError
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.stretch import Stretch
from advcore.objectives.base import choose_ascent
from advcore.objectives.standard import Pgd
from advcore.rng import Stream


def classify_clean(logits: Tensor, y: Tensor, indices: Tensor) -> Tensor:
    """Return (B,) bool, which examples the clean logits (B, C) classify right.

    `indices` (B,) name the examples in errors. Raises DataError for labels beyond the logits, NonFiniteError for logits
    that are NaN or infinite.
    """
    check_labels(y, indices, logits.shape[1])
    is_bad = ~are_meaningful(logits)
    if bool(is_bad.any()):
        first = int(indices[is_bad][0])
        raise NonFiniteError(
            f"the model's logits are NaN or infinite at example {first}; there is no accuracy to report"
        )
    return logits.detach().argmax(1) == y


def are_meaningful(logits: Tensor) -> Tensor:
    """Return (B,) bool, which logits (B, C) say something: no NaN, none infinite, but for classes masked by -inf."""
    return torch.isfinite(logits.logsumexp(1))


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
    if isinstance(attack, AutoAttack):
        return find_robust_by_part(forward, attack, x, y=y, correct=correct, stream=stream)[:2]
    robust = correct.clone()
    x_adv = x.clone()
    for restart in range(attack.restarts):
        remaining = robust.nonzero()[:, 0]
        if not len(remaining):
            break
        images = x[remaining]
        draws = stream.take(remaining).child("try", restart)
        watched = WatchedLoss(forward, attack, images, y=y[remaining])
        single = attack if attack.restarts <= 1 else attack.with_settings(restarts=1)
        last_points = check_attacked(attack, images, single(watched, images, generator=draws))
        with torch.no_grad():
            watched.judge(last_points)
        robust[remaining] = ~watched.fooled
        x_adv[remaining] = watched.find_worst_points(last_points).to(x_adv)
    return robust, x_adv


def find_robust_by_part(
    forward: Callable[[Tensor], Tensor],
    attack: Attack | AutoAttack,
    x: Tensor,
    *,
    y: Tensor,
    correct: Tensor,
    stream: Stream,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Attack as `find_robust` does, and report which examples stay correct after each part of AutoAttack.

    Returns what `find_robust` does, and (B,) bool by the name of each part, in the order in which they run; empty for
    an attack without parts.
    """
    if not isinstance(attack, AutoAttack):
        return *find_robust(forward, attack, x, y=y, correct=correct, stream=stream), {}
    remaining = correct.nonzero()[:, 0]
    if not len(remaining):
        with torch.no_grad():
            classes = forward(x[:1]).shape[1]
        return correct, x.clone(), dict.fromkeys(attack.choose_lineup(classes).parts, correct)
    images, labels = x[remaining], y[remaining]
    last_points, right_after = attack.attack_by_part(forward, images, labels, stream.take(remaining).child("try", 0))
    watched = WatchedLoss(forward, attack, images, y=labels)
    with torch.no_grad():
        watched.judge(last_points)
    robust = correct.index_put((remaining,), ~watched.fooled)
    x_adv = x.index_put((remaining,), watched.find_worst_points(last_points).to(x))
    return robust, x_adv, {part: robust | correct.index_put((remaining,), right) for part, right in right_after.items()}


class WatchedLoss:
    """The loss that an attack climbs, which also notes the examples that are misclassified where it is asked for.

    Parameters
    ----------
    forward : images to logits.
    attack : names the loss (`climbs`), and whether it asks for it outside of its ball (`probes_outside`): then only the
        points given to `judge` count. AutoAttack computes its losses itself, and uses `judge` alone.
    x, y : images (B, C, H, W) and labels (B,).

    The loss is that of the logits stretched to a usual size (`Stretch`), as far as the first point that is asked for
    needs it: a temperature in the model changes no accuracy.

    `fooled` (B,) bool: the examples misclassified so far. Logits that say nothing (`are_meaningful`) count as
    misclassified.
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
        self._stretch: Stretch | None = None

    def __call__(self, x_adv: Tensor) -> Tensor:
        logits = self._forward(x_adv)
        if self._stretch is None:
            self._stretch = Stretch.fit(logits)
        losses = self._loss(self._stretch(logits))
        if not self._every_point_counts:
            return losses
        self._note(x_adv, logits)
        return losses.masked_fill(self.fooled, 0)

    def judge(self, x_adv: Tensor) -> None:
        """Note which examples are misclassified at x_adv (B, C, H, W), the point that an attack returned."""
        self._note(x_adv, self._forward(x_adv))

    def find_worst_points(self, x_adv: Tensor) -> Tensor:
        """Return (B, C, H, W): where each example was first misclassified, or its image in `x_adv` if it never was."""
        return torch.where(_per_image(self.fooled, x_adv), self._first_fooled_at, x_adv)

    def _note(self, x_adv: Tensor, logits: Tensor) -> None:
        wrong = (logits.argmax(1) != self._y) | ~are_meaningful(logits)
        newly_wrong = _per_image(wrong & ~self.fooled, x_adv)
        self._first_fooled_at = torch.where(newly_wrong, x_adv.detach(), self._first_fooled_at)
        self.fooled |= wrong


def _per_image(mask: Tensor, images: Tensor) -> Tensor:
    """Return the mask (B,) as (B, 1, ...), so that it selects whole images."""
    return mask.view(-1, *[1] * (images.ndim - 1))
