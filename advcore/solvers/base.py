"""What a solver is, and the checks that all of them make."""

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from advcore.errors import BudgetError, DataError, must
from advcore.rng import Stream
from advcore.rows import Rows, first_not_finite
from advcore.types import Selection


class Solver(Protocol):
    """Frozen settings; `solver(rows, k, target=None, generator=...)` picks at most k of N rows.

    reads : the kind of row it needs, a name in GRADIENTS; None if it looks at nothing but their number.
    Picks are unique, at most k, their weights finite. Raises BudgetError unless 1 <= k <= N, DataError naming the
    first row that is not finite. Zero rows, duplicates and a zero target return what can be had, and
    `info["stopped"]` says why.
    """

    reads: ClassVar[str | None]

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        """`target` is what the weighted rows stand for, as `rows.total` gives it; by default the sum of all rows.
        `generator` is bound to the rows' example indices."""


def check_problem(rows: Rows, k: int) -> None:
    """Raise BudgetError or DataError for a count or rows that no solver can serve."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(rows):
        raise BudgetError(must("k", f"a whole number in 1..{len(rows)}, the number of rows", k))
    bad = first_not_finite(rows)
    if bad is not None:
        raise DataError(f"gradient rows must be finite, got NaN or infinity in row {bad}")


def equal_weights(indices: Tensor, n: int) -> Tensor:
    """(K,) float64, N / K each."""
    return torch.full((len(indices),), n / len(indices), dtype=torch.float64, device=indices.device)
