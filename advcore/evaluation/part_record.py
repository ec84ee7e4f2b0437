"""Note what each part of a combined attack leaves right, while the package runs them all."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor


class PartRecord:
    """Notes what the package's AutoAttack predicts before and after each of its attacks, at no pass more.

    attack : runs on one batch; it asks for logits of the images, and after each attack for those of what it returned.
    """

    def __init__(self, attack: Any) -> None:
        self._latest = torch.empty(0)
        self._predictions: list[Tensor] = []
        attack.get_logits = partial(self._note, attack.get_logits)
        for single in (attack.apgd, attack.apgd_targeted, attack.fab, attack.square):
            single.perturb = partial(self._begin, single.perturb)

    def _note(self, get_logits: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        logits = get_logits(x)
        self._latest = logits.argmax(1)
        return logits

    def _begin(self, perturb: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        self._predictions.append(self._latest)
        return perturb(x, y)

    def judge_parts(self, parts: Sequence[str], y: Tensor) -> dict[str, Tensor]:
        """Return what `AutoAttack.attack_by_part` does; a part that had nothing left to attack changes nothing."""
        predictions = iter([*self._predictions, self._latest])
        right = torch.eq(next(predictions), y)
        right_after = {}
        for part in parts:
            remaining = right.nonzero()[:, 0]
            if len(remaining):
                right = right.index_put((remaining,), torch.eq(next(predictions), y[remaining]))
            right_after[part] = right
        return right_after
