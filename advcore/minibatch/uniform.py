"""Baseline rules, which pick at random."""

from typing import ClassVar

import torch
from torch import Tensor

from advcore.errors import SettingProblem, check_within
from advcore.minibatch.base import AttackSubset, Seen, UpdateSubset, count
from advcore.rng import Stream
from advcore.settings import setting, settings


@settings
class RandomSubset(AttackSubset):
    """Attack a uniformly drawn part of each batch, without scoring. Settings: see `AttackSubset`."""

    def compute_preferences(self, seen: Seen) -> Tensor:
        return torch.ones_like(seen.margins)


@settings
class RandomMix(UpdateSubset):
    """Train on a random mix of clean and attacked images; only images that are kept are attacked.

    Parameters
    ----------
    adversarial : share of the kept images that are attacked, in [0, 1].
    p_up : see `UpdateSubset`.

    Cost of a batch of B with A attacked of k = int(2 B p_up) kept: A attacks, and 2 k passes.
    Reference: the random mix with which Mendonça et al. 2023 compare. Differs: exact shares in each batch.
    """

    adversarial: float = setting(default=0.5, unit="share")
    reads: ClassVar[str | None] = None

    def _check_more(self) -> list[SettingProblem | None]:
        return [check_within("adversarial", self.adversarial, 0, 1)]

    def count_attacked(self, size: int) -> int:
        """Return how many of the images kept from `size` examples are attacked; at most all of them."""
        kept = count(self.p_up, 2 * size)
        return min(size, max(kept - size, round(self.adversarial * kept)))

    def keep(self, part: float, losses: Tensor | None, generator: Stream) -> Tensor:
        size = len(generator.examples)
        attacked = self.count_attacked(size)
        clean = generator.child("clean").permutation()[: count(part, 2 * size) - attacked]
        adversarial = size + generator.child("adversarial").permutation()[:attacked]
        return torch.cat([clean, adversarial]).sort().values
