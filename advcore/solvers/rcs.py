"""RCS: greedy selection of the rows that lower the representational divergence most."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from advcore.errors import DataError, check_within, require
from advcore.kinds import find_type_problem
from advcore.rng import Stream
from advcore.rows import ALL, Rows
from advcore.rows.pairwise import EXACT_UP_TO, use_exact_factors
from advcore.settings import setting, settings
from advcore.solvers.base import RowShape, check_problem, weigh_equally
from advcore.types import Selection


@settings
class RCS:
    """Rows along which a training step lowers the divergence of the whole set, or of the validation set, most.

    Rows are gradients of the divergence between clean and attacked predictions, so that no label is read. Each pick has
    the largest gain in F(S) = <Q, G> - curvature (n / k) ||G||^2 / 2, where G is the sum of the picked rows, and Q the
    target: what a step along G takes off the divergence, to first order, less what curvature gives back. Weights are
    n / k each.

    Parameters
    ----------
    curvature : in [0, 1]. 0: the k rows that agree most with Q. Above it, what is picked takes its part of Q away, so
        that near copies gain less; at 1, n / k times the sum of the picked rows may fill Q and no more.

    `info`: `gains`. Ties go to the lower index. Precision: float64. Cost O(n C D) for the products with Q, then, with a
    curvature, O(n (C + D)) a pick, or up to 2048 rows O(n^2 (C + D)) in all and 8 n^2 bytes.
    Reference: Xu et al. 2023 (arXiv 2302.03857), section 3 and algorithm 1, and their code, github
    GodXuxilie/Efficient_ACL_via_RCS. Differs: after a pick, Q is that of a quadratic with the same curvature in all
    directions, where theirs is computed again, after a new attack, at weights moved by the pick's gradient; rows are of
    the divergence too, where theirs are of the training loss; gains are products of whole gradients, where the code
    averages both over the outputs first; candidates are single examples, or with partition per_batch minibatches, as
    theirs are.
    """

    curvature: float = setting(default=0.5, unit="share")
    reads: ClassVar[str | None] = "divergence"
    has_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(check_within("curvature", self.curvature, 0, 1))

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        require(find_type_problem("rows", Rows, rows), find_type_problem("target", Tensor | None, target))
        rows = use_exact_factors(rows)
        norms = check_problem(rows, k)
        if target is None:
            target = rows.total()
        elif not bool(torch.isfinite(target).all()):
            raise DataError("the target must be finite, got NaN or infinity")
        n = len(rows)
        correlations = rows.correlate(target.double())
        if self.curvature:
            picks, gains = _pick_greedily(rows, k, correlations, norms, self.curvature * n / k)
        else:
            picks = torch.argsort(correlations, descending=True, stable=True)[:k]
            gains = correlations[picks]
        selection = weigh_equally(picks, n)
        return replace(selection, info={**selection.info, "gains": gains.tolist()})

    def memory(self, n: int, k: int) -> dict[str, int]:
        """Return the bytes needed besides n rows: by the products of all pairs, where these are held."""
        return {"matrix": 8 * n * n if self.curvature and n <= EXACT_UP_TO else 0, "solver": 0}

    def operations(self, n: int, k: int, shape: RowShape) -> float:
        """Return how many multiplications it takes to pick k of n rows."""
        if not self.curvature:
            return n * shape.size
        return n * shape.size + (n if n <= EXACT_UP_TO else k) * n * shape.product


def _pick_greedily(rows: Rows, k: int, correlations: Tensor, norms: Tensor, curvature: float) -> tuple[Tensor, Tensor]:
    """Return k picks and their gains in <Q, G> - curvature ||G||^2 / 2; arguments are products with Q, and of each row.

    A pick takes curvature times its products with all rows off their gains.
    """
    gram = rows.gram() if len(rows) <= EXACT_UP_TO else None
    gains = correlations - curvature / 2 * norms
    picks = []
    picked_gains = []
    for _ in range(k):
        best = gains.argmax()
        picks.append(best)
        picked_gains.append(gains[best].clone())
        gains -= curvature * (rows.gram(ALL, best[None])[:, 0] if gram is None else gram[:, best])
        gains[best] = -torch.inf
    return torch.stack(picks), torch.stack(picked_gains)
