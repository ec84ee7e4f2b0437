"""The baselines: pick at random."""

from typing import ClassVar

import torch
from torch import Tensor

from advcore.errors import within
from advcore.minibatch.base import AttackSubset, Seen, UpdateSubset, count
from advcore.rng import Stream
from advcore.types import settings


@settings
class RandomSubset(AttackSubset):
    """Attack a uniform part of each batch; nothing is scored. Settings: see `AttackSubset`."""

    def preferences(self, seen: Seen) -> Tensor:
        return torch.ones_like(seen.margins)


@settings
class RandomMix(UpdateSubset):
    """Learn from a random mix of clean and attacked images; only those are attacked that are kept.

    Parameters
    ----------
    adversarial : share of the kept images that are attacked, in [0, 1].
    p_up : see `UpdateSubset`.

    Cost of a batch of B with A attacked of k = int(2 B p_up) kept: A attacks, and 2 k passes.
    Reference: the random mix that Mendonça et al. 2023 compare with. Differs: exact shares in each batch.
    """

    adversarial: float = 0.5
    reads: ClassVar[str | None] = None

    def _more_problems(self) -> list[str | None]:
        return [within("adversarial", self.adversarial, 0, 1)]

    def attacked(self, size: int) -> int:
        """How many of the images kept from `size` examples are attacked; no more than there are."""
        kept = count(self.p_up, 2 * size)
        return min(size, max(kept - size, round(self.adversarial * kept)))

    def keep(self, part: float, losses: Tensor | None, generator: Stream) -> Tensor:
        size = len(generator.indices)
        moved = self.attacked(size)
        clean = generator.child("clean").permutation()[: count(part, 2 * size) - moved]
        return torch.cat([clean, size + generator.child("adversarial").permutation()[:moved]]).sort().values
