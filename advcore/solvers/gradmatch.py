"""GradMatch: non-negative ridge orthogonal matching pursuit (OMP) on gradient rows."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from advcore.errors import DataError, one_of, require, within
from advcore.rng import Stream
from advcore.rows import Rows
from advcore.solvers.base import check_problem
from advcore.solvers.cholesky import Cholesky
from advcore.types import Selection, settings

FILLS = ("rounds", "random", "none")
_ZERO = 1e-10  # correlation over norms below which a row is orthogonal to the residual
_CANCELLED = 1e-14  # the sum over its parts' norms below which it is float64 rounding


@dataclass
class Pursuit:
    """One round's answer: rows in the order they joined, their weights, the relative residual after each pick."""

    support: list[int] = field(default_factory=list)
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    path: list[float] = field(default_factory=list)
    stopped: str = "budget"


def pursue(
    gram: np.ndarray,
    correlation: np.ndarray,
    target_norm: float,
    k: int,
    *,
    ridge: float = 0.0,
    nonnegative: bool = True,
    tolerance: float = 0.0,
    closed: np.ndarray | None = None,
) -> Pursuit:
    """Minimise ||sum_i w_i g_i - t||^2 + ridge ||w||^2 over at most k rows, greedily.

    Each step lets the row join that correlates most with the residual (by absolute value unless
    `nonnegative`) and refits all weights. With `nonnegative`, a refit that would turn weights negative walks
    towards it until the first reaches 0, lets that row leave, and refits (Lawson and Hanson 1974, chapter 23), so
    the weights are the non-negative least-squares solution on the support.

    Parameters
    ----------
    gram : (N, N) float64, <g_i, g_j>.
    correlation : (N,) float64, <g_i, t>.
    target_norm : ||t||.
    k : most rows in the support.
    ridge : absolute, >= 0.
    tolerance : stop once ||residual|| <= tolerance ||t||.
    closed : (N,) bool, rows that may not join.

    Cost O(N) + O(m^2) a pick for the choice and the refit, O(N m) for the correlations, m the support's size;
    O(k N + k^2) memory beside the input.
    Reference: Killamsetty et al. 2021 (GradMatch), algorithm 2; Rubinstein et al. 2008 (Batch-OMP). Differs:
    a row that left may join again; rows with no positive correlation never join.
    """
    n = len(gram)
    diagonal = gram.diagonal()
    least = _ZERO * target_norm * np.sqrt(np.maximum(diagonal, 0))
    is_open = np.ones(n, dtype=bool) if closed is None else ~closed
    factor, picked_rows = Cholesky(k), np.empty((k, n))
    found, left = Pursuit(), correlation.copy()
    for _ in range(10 * n + 10 * k):
        if len(found.support) == k:
            break
        if found.path and found.path[-1] <= tolerance:
            found.stopped = "tolerance"
            break
        score = left if nonnegative else np.abs(left)
        eligible = is_open & (score > least)
        if not eligible.any():
            found.stopped = "no row correlates with the residual"
            break
        j = int(np.argmax(np.where(eligible, score, -np.inf)))
        is_open[j] = False
        m = len(found.support)
        if not factor.append(gram[j, found.support], diagonal[j] + ridge):
            continue  # a combination of the support: closed for this round
        picked_rows[m] = gram[j]
        found.support.append(j)
        weights = np.append(found.weights, 0.0)
        found.weights, gone = _refit(factor, found.support, weights, correlation, picked_rows, nonnegative)
        is_open[[i for i in gone if i != j]] = True
        m = len(found.support)
        left = correlation - found.weights @ picked_rows[:m]
        squared = target_norm**2 - found.weights @ (correlation[found.support] + left[found.support])
        found.path.append(math.sqrt(max(squared, 0.0)) / target_norm)
    else:
        found.stopped = "rounding"
    return found


def _refit(
    factor: Cholesky,
    support: list[int],
    weights: np.ndarray,
    correlation: np.ndarray,
    picked_rows: np.ndarray,
    nonnegative: bool,
) -> tuple[np.ndarray, list[int]]:
    """Least squares on the support; rows whose weight reaches 0 leave it. Returns weights and who left."""
    gone: list[int] = []
    while support:
        wanted = factor.solve(correlation[support])
        negative = wanted <= 0
        if not nonnegative or not negative.any():
            return wanted, gone
        falling = np.flatnonzero(negative)
        drop = weights[falling] - wanted[falling]
        strides = np.divide(weights[falling], drop, out=np.zeros(len(falling)), where=drop > 0)
        weights = np.maximum(weights + strides.min() * (wanted - weights), 0)
        leaving = falling[strides <= strides.min()]
        for p in leaving[::-1].tolist():
            factor.remove(p)
            picked_rows[p : len(support) - 1] = picked_rows[p + 1 : len(support)].copy()
            gone.append(support.pop(p))
        weights = np.delete(weights, leaving)
    return np.zeros(0), gone


def _whole(rows: Rows) -> Tensor:
    """The sum of all rows; zero where they cancel and what is left is rounding, which must not be fitted."""
    total = rows.total()
    return total * bool(total.norm() > _CANCELLED * rows.squared_parts().sqrt().sum())


@settings
class GradMatch:
    """Rows and non-negative weights whose sum is nearest to the target (by default the sum of all rows).

    Parameters
    ----------
    ridge : unit-free; the penalty on ||w||^2 is ridge x the problem's mean squared row norm, >= 0.
    nonnegative : False lets weights take any sign and picks by absolute correlation, as scikit-learn's OMP does.
    tolerance : a round ends once the relative residual is below it.
    fill : what to do when a round ends before k rows: "rounds" runs OMP again for the same target on the rows
        not picked yet and averages the rounds' weights by their counts; "random" adds random rows of weight 1
        (as published); "none" returns fewer.

    Weights are coefficients of the sum; with ridge they need not sum to N. `info`: `stopped` (why the last round
    ended), `rounds`, `filled` (random rows added), `residuals` (relative, after each pick of the first round).
    Float64 on the CPU. Cost: see `pursue`; the Gram matrix takes O(N^2 (C + D)) time and O(N^2) memory.
    Reference: Killamsetty et al. 2021, eq. 4 and algorithm 2; Dolatabadi et al. 2022, section 3.2. Differs: ridge
    is scaled, weights are refitted exactly, a shortfall is not filled at random unless asked.
    """

    ridge: float = 0.02
    nonnegative: bool = True
    tolerance: float = 1e-4
    fill: str = "rounds"
    reads: ClassVar[str | None] = "last_layer"

    def __post_init__(self):
        require(
            within("ridge", self.ridge, 0, 1e6),
            within("tolerance", self.tolerance, 0, 1),
            one_of("fill", self.fill, FILLS),
        )

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        check_problem(rows, k)
        target = _whole(rows) if target is None else target
        if not bool(torch.isfinite(target).all()):
            raise DataError("the target must be finite, got NaN or infinity")
        rounds = self._rounds(rows, k, target)
        picked = np.array([i for one in rounds for i in one.support], dtype=np.int64)
        weights = np.concatenate([one.weights * len(one.support) / max(len(picked), 1) for one in rounds])
        stopped = "budget" if len(picked) == k else rounds[-1].stopped
        filled = 0
        if self.fill == "random" and len(picked) < k:
            order = generator.child("fill").permutation().cpu().numpy()
            extra = order[~np.isin(order, picked)][: k - len(picked)]
            picked, filled = np.concatenate([picked, extra]), len(extra)
            weights = np.concatenate([weights, np.ones(filled)])
        return Selection(
            indices=torch.from_numpy(picked).to(rows.device),
            weights=torch.from_numpy(weights).to(rows.device),
            info={"stopped": stopped, "rounds": len(rounds), "filled": filled, "residuals": rounds[0].path},
        )

    def _rounds(self, rows: Rows, k: int, target: Tensor) -> list[Pursuit]:
        """Rounds until k rows are found, one adds none, or one is all that is asked for."""
        norm = float(target.double().norm())
        gram, correlation = rows.gram().cpu().numpy(), rows.correlate(target).cpu().numpy()
        closed = np.zeros(len(rows), dtype=bool)
        rounds: list[Pursuit] = []
        while True:
            found = pursue(
                gram,
                correlation,
                norm,
                k - int(closed.sum()),
                ridge=self.ridge * float(gram.diagonal().mean()),
                nonnegative=self.nonnegative,
                tolerance=self.tolerance,
                closed=closed,
            )
            if found.support or not rounds:
                rounds.append(found)
            else:
                rounds[-1].stopped = found.stopped  # the round that added none says why there are fewer
            closed[found.support] = True
            if self.fill != "rounds" or not found.support or closed.sum() == k:
                return rounds
