"""Attacks that see only some of the evaluated images, and the accuracies of all attacks on the images that they share.

AutoAttack takes thousands of passes per image, so it may be given fewer images than the other attacks
(`AutoAttack.examples`). Its accuracy cannot be compared with theirs on other images, only with theirs on the same ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from advcore.attacks.base import Attack
from advcore.data.contract import Source
from advcore.data.split import draw_stratified
from advcore.errors import SettingProblem, check, require
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.intervals import Accuracy, wilson


@dataclass(frozen=True)
class SharedImages:
    """The accuracies on the images that all attacks saw: `clean`, and under each of the `attacks` by its position."""

    clean: Accuracy
    attacks: Sequence[Accuracy]

    def as_dict(self) -> dict[str, object]:
        """Return the accuracies as the record of a run holds them."""
        return {"clean": self.clean.as_dict(), "attacks": [entry.as_dict() for entry in self.attacks]}


@dataclass(frozen=True)
class SeenImages:
    """Which of n evaluated images each attack sees.

    indices : (n,) long, of the images in their source.
    limited : (n,) bool by the position of an attack, for those that do not see all of them.
    """

    indices: Tensor
    limited: Mapping[int, Tensor] = field(default_factory=dict)

    def pick(self, position: int, indices: Tensor, correct: Tensor) -> Tensor:
        """Return which of the images that are right at the clean image an attack sees, as `correct` (B,) bool is.

        indices : (B,) of the images in their source.
        """
        if position not in self.limited:
            return correct
        seen = torch.isin(indices.cpu(), self.indices[self.limited[position]].cpu())
        return correct & seen.to(correct.device)

    def measure(self, key: str, verdict: Tensor) -> Accuracy:
        """Return the accuracy of verdicts (n,) bool over the images seen.

        key : "clean", or begins with the position of the attack ("0", "0.apgd-ce").
        """
        position = key.partition(".")[0]
        seen = self.limited.get(int(position)) if position.isdigit() else None
        return _measure(verdict if seen is None else verdict[seen])

    def measure_shared(self, verdicts: Mapping[str, Tensor], count: int) -> SharedImages | None:
        """Return the accuracies under `count` attacks on the images that all of them saw; None if all saw all."""
        if not self.limited:
            return None
        shared = self.find_shared(verdicts["clean"])
        attacks = [_measure(verdicts[str(position)][shared]) for position in range(count)]
        return SharedImages(_measure(verdicts["clean"][shared]), attacks)

    def measure_worst(self, verdicts: Mapping[str, Tensor]) -> Accuracy:
        """Return the accuracy where an image counts only if it is right under every attack, over those they share."""
        worst = torch.stack(list(verdicts.values())).all(0)
        return _measure(worst[self.find_shared(worst)])

    def find_shared(self, verdict: Tensor) -> Tensor:
        """Return (n,) bool, which images all attacks saw; `verdict` has that shape."""
        shared = torch.ones_like(verdict)
        for seen in self.limited.values():
            shared &= seen
        return shared


def _measure(verdict: Tensor) -> Accuracy:
    return wilson(int(verdict.sum()), verdict.numel())


def find_limit_problems(attacks: Sequence[Attack | AutoAttack], count: int) -> list[SettingProblem | None]:
    """Return a problem for each attack that is to see more images than are evaluated, `count`, and None for others."""
    rule = f"at most {count}, as many images as are evaluated"
    return [check(limit <= count, f"attacks.{i}.examples", rule, limit) for i, limit in _read_limits(attacks).items()]


def _read_limits(attacks: Sequence[Attack | AutoAttack]) -> dict[int, int]:
    """Return how many images an attack sees, by the position of those that have a limit."""
    limits = {i: getattr(attack, "examples", None) for i, attack in enumerate(attacks)}
    return {i: limit for i, limit in limits.items() if limit is not None}


def choose_seen(attacks: Sequence[Attack | AutoAttack], source: Source, indices: Tensor) -> SeenImages:
    """Choose which of the evaluated images each attack sees: all, or as many as its setting `examples` says.

    These are drawn stratified, the same for all models that are evaluated on the same images: those that
    `evaluation.examples` would choose of the first data split. Reads all labels where an attack has fewer images.

    Raises ConfigError for more images than are evaluated.
    """
    require(*find_limit_problems(attacks, len(indices)))
    counts = _read_limits(attacks)
    if not counts:
        return SeenImages(indices)
    labels = source.labels()[indices.cpu()]
    return SeenImages(indices, {i: draw_stratified(labels, count, 0, "evaluation") for i, count in counts.items()})
