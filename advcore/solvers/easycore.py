"""EasyCore: keep the examples whose input gradients are smallest."""

from typing import ClassVar

import torch
from torch import Tensor

from advcore.rng import Stream
from advcore.rows import Rows
from advcore.solvers.base import check_problem, equal_weights, no_target
from advcore.types import Selection, settings


@settings
class EasyCore:
    """The k rows of lowest score, weight N / k each; ties go to the lower index.

    Scores are average input-gradient norms (AIGN, `gradients.input_norm`). Partition `whole` is the paper's;
    `per_class` makes it a quota. Cost O(N log N).
    Reference: EasyCore (arXiv 2510.11018), abstract. Differs: the paper's fractions and averaging window
    are not public; ours are settings.
    """

    has_target: ClassVar[bool] = False
    reads: ClassVar[str | None] = "input_norm"

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        check_problem(rows, k)
        no_target(self, target)
        indices = torch.argsort(rows.dense()[:, 0], stable=True)[:k]
        return Selection(indices=indices, weights=equal_weights(indices, len(rows)), info={"stopped": "budget"})

    def memory(self, n: int, k: int) -> dict[str, int]:
        """Bytes beside the rows: nothing to speak of."""
        return {"matrix": 0, "solver": 0}
