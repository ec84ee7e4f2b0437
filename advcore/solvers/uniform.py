"""Uniform random selection: the baseline in every table."""

from typing import ClassVar

from torch import Tensor

from advcore.rng import Stream
from advcore.rows import Rows
from advcore.settings import settings
from advcore.solvers.base import check_problem, refuse_target, weigh_equally
from advcore.types import Selection


@settings
class Random:
    """k rows drawn without replacement, weight N / k each.

    Parameters
    ----------
    redraw : draw again at every selection (default), or the same subset for the whole run, as the published
        baselines do.

    Cost O(N log N). Reference: Kaufmann et al. 2022 (arXiv 2207.00694), who drop random examples permanently, as
    `redraw: false` does without a warm start.
    """

    redraw: bool = True
    reads: ClassVar[str | None] = None

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        check_problem(rows, k)
        refuse_target(self, target)
        stream = generator if self.redraw else generator.at_epoch(0)
        return weigh_equally(stream.permutation()[:k].sort().values, len(rows))
