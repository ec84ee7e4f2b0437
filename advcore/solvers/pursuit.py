"""Non-negative ridge orthogonal matching pursuit (OMP), over a Gram matrix or over the rows' factors."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lapack

from advcore.runtime.signals import check
from advcore.solvers.active import ActiveSet
from advcore.solvers.leap import Pace, leap
from advcore.solvers.products import Products

REFRESH = 128  # steps after which correlations are summed again in float64
LEAST = {True: 1e-10, False: 1e-8}  # correlation over norms below which a row is orthogonal; by `precise`
PIVOT = {True: 1e-12, False: 2e-6}  # pivot over diagonal below which a row is a combination of others; by `precise`


@dataclass(frozen=True, kw_only=True)
class PursuitProblem:
    """A target that at most k of N rows are to match; the rows g_i themselves come as their `Products`.

    Parameters
    ----------
    correlation : (N,) float64, <g_i, t> of each row with the target t.
    target_norm : ||t||.
    k : how many rows to use at most.
    ridge : penalty on ||w||^2, absolute, >= 0.
    closed : (N,) bool, rows that may not join; False lets all join.
    residual : (rows, weights) to the exact relative residual. `pursue` calls it before the tolerance ends a pursuit,
        because from float32 products the residual is known to about 3e-4 only; None trusts the products.
    """

    correlation: np.ndarray
    target_norm: float
    k: int
    ridge: float = 0.0
    closed: np.ndarray | bool = False
    residual: Callable[[np.ndarray, np.ndarray], float] | None = None

    def mask_open_rows(self) -> np.ndarray:
        """Return a new mask (N,) bool, true for the rows that may join."""
        return ~np.broadcast_to(self.closed, len(self.correlation))


@dataclass(frozen=True, kw_only=True)
class Pursuit:
    """The result of a pursuit.

    support : the rows in use, in the order in which they joined. weights : (K,) float64, theirs. path : the residual's
    norm relative to the target's, after each pick. stopped : why the pursuit ended, for a report.
    """

    support: list[int]
    weights: np.ndarray
    path: list[float]
    stopped: str


def pursue(products: Products, problem: PursuitProblem, *, nonnegative: bool = True, tolerance: float = 0.0) -> Pursuit:
    """Minimise ||sum_i w_i g_i - t||^2 + ridge ||w||^2 over at most k rows, greedily.

    In each step the row joins that correlates most with the residual (by absolute value unless `nonnegative`), and all
    weights are refitted. With `nonnegative`, a refit that would turn weights negative walks towards it until the first
    reaches 0 and drops that row (`ActiveSet.settle`), so the weights are the non-negative least-squares solution on the
    support. The pursuit ends once ||residual|| <= tolerance ||t||. `products` change: their slots take the rows in
    use, and a Gram matrix is reordered.

    Weights, pivots and the residual's correlations are float64. What a step changes in the correlations is summed in
    the products' own precision; after 128 steps (or the leap that passes them) all of it is summed again in float64,
    and the weights are corrected.
    Cost O(N) + O(m^2) a pick for the choice and the refit, m the support's size, and the products': O(N m) from a
    Gram matrix, O(N C D) from factors. A row that leaves costs O(m^2).
    Reference: Killamsetty et al. 2021 (GradMatch), algorithm 2; Rubinstein et al. 2008 (Batch-OMP). Differs:
    a row that left may join again; a combination of the support never joins, nor, with `nonnegative`, a row with no
    positive correlation.
    """
    state = PursuitState(products, problem, nonnegative=nonnegative, tolerance=tolerance)
    pace = Pace()
    while state.begin_step():
        check()
        if not leap(state, pace):
            state.step()
    slots = state.active.slots
    return Pursuit(
        support=state.active.members[slots].tolist(),
        weights=state.active.weights[slots],
        path=state.path,
        stopped=state.stopped,
    )


class PursuitState:
    """A pursuit under way, which advances by `step`, or by several steps at once (`leap`).

    applied : (k,) float64, the weight of each slot.
    residual_correlation : (N,) float64, each row's correlation with the residual at these weights.
    least : (N,) float64, the correlation up to which a row counts as orthogonal to the residual.
    is_open : (N,) bool, rows that may join.
    scores : (N,) float64, how well each row would join, as of the last call of `begin_step`.
    """

    def __init__(self, products: Products, problem: PursuitProblem, *, nonnegative: bool, tolerance: float) -> None:
        self.products, self.problem = products, problem
        self.nonnegative, self.tolerance = nonnegative, tolerance
        self.active = ActiveSet(problem.k, dependent=PIVOT[products.precise], nonnegative=nonnegative)
        self.least = LEAST[products.precise] * problem.target_norm * np.sqrt(np.maximum(products.diagonal, 0))
        self.is_open = problem.mask_open_rows()
        self.residual_correlation = problem.correlation.copy()
        self.applied = np.zeros(problem.k)
        self.path: list[float] = []
        self.stopped = ""
        self.steps = self.steps_since_refresh = 0

    def begin_step(self) -> bool:
        """Score the rows, and return whether there is a step to take; if not, `stopped` says why."""
        self.scores = self.score(self.residual_correlation, self.is_open, self.least)
        if self.active.size == self.problem.k:
            self.stopped = "budget"
        elif self.path and self.path[-1] <= self.tolerance:
            self.stopped = "tolerance"
        elif self.scores.max(initial=-np.inf) == -np.inf:
            self.stopped = "no row correlates with the residual"
        elif self.steps > 10 * len(self.scores) + 10 * self.problem.k:
            self.stopped = "rounding"
        return not self.stopped

    def score(self, correlation: np.ndarray, is_open: np.ndarray, least: np.ndarray) -> np.ndarray:
        """Return how much each row correlates with the residual, by absolute value unless the pursuit is nonnegative.

        A row scores -inf if it is not open, or orthogonal to the residual: its correlation is at most `least`.
        correlation : (N,) or (r, N), as is the result. is_open, least : (N,).
        """
        if not self.nonnegative:
            correlation = np.abs(correlation)
        return np.where(is_open & (correlation > least), correlation, -np.inf)

    def step(self) -> None:
        """Let the row with the best score join, refit, and drop the rows whose weight reaches 0.

        Where that row is a combination of the support, close it instead, for the rest of the pursuit.
        """
        self.steps += 1
        row = int(self.scores.argmax())
        self.is_open[row] = False
        if not self.join(row, self.residual_correlation[row]):
            return
        self.is_open[[other for other in self.active.settle() if other != row]] = True
        self.steps_since_refresh += 1
        if self.is_refresh_due():
            self._refresh_correlations()
        high = self.active.high
        weights = self.active.weights[:high]
        self.residual_correlation -= self.products.correlate(weights - self.applied[:high], exact=False)
        self.applied[:high] = weights
        self.append_residual(self.residual_correlation, weights)

    def join(self, row: int, correlation: float) -> bool:
        """Let a row join the support; return False, with nothing changed, if it is a combination of the others.

        correlation : the row's with the residual.
        """
        slot = self.active.find_free_slot()
        column = self.products.multiply_row(row, self.active.high)
        if not self.active.join(row, column, self.products.diagonal[row] + self.problem.ridge, correlation):
            return False
        self.products.assign(slot, row)
        return True

    def is_refresh_due(self) -> bool:
        """Return whether the last refresh is too many steps ago for the next change of the correlations."""
        return self.steps_since_refresh >= REFRESH

    def _refresh_correlations(self) -> None:
        """Sum the residual's correlations again in float64, and correct the weights by what rounding left over.

        Rows whose weight reaches 0 by that leave, and may join again.
        """
        self.steps_since_refresh = 0
        applied = self.applied[: self.active.high]
        applied[:] = self.active.weights[: len(applied)]
        self.residual_correlation = self.problem.correlation - self.products.correlate(applied, exact=True)
        self.active.correct(
            self.residual_correlation[self.active.members[: len(applied)]] - self.problem.ridge * applied
        )
        self.is_open[self.active.settle()] = True

    def append_residual(self, correlation: np.ndarray, weights: np.ndarray) -> None:
        """Append to the path the norm of the residual relative to the target's.

        Where it meets the tolerance, but comes from float32 products, `problem.residual` measures it instead.
        correlation : (N,), the rows' with that residual. weights : one for each slot, at least for all in use.
        """
        used = np.flatnonzero(weights)
        members = self.active.members[used]
        weights = weights[used]
        explained = weights @ (self.problem.correlation[members] + correlation[members])
        value = math.sqrt(max(self.problem.target_norm**2 - explained, 0.0)) / self.problem.target_norm
        if value <= self.tolerance and self.problem.residual is not None and not self.products.precise:
            value = self.problem.residual(members, weights)
        self.path.append(value)


def refit(
    gram: np.ndarray, correlation: np.ndarray, weights: np.ndarray, *, ridge: float, nonnegative: bool
) -> np.ndarray:
    """Return the least-squares weights on a support, (m,), from its float64 products; 0 for rows that leave it.

    Where the products are dependent to working precision, `weights` are returned as they are.

    Parameters
    ----------
    gram : (m, m) inner products, overwritten.
    correlation : (m,) correlations with the target.
    weights : (m,) weights from which to walk towards the solution.
    ridge, nonnegative : as in `pursue`.

    Cost O(m^3 / 3).
    """
    gram[np.diag_indices(len(gram))] += ridge
    try:
        factor = cho_factor(gram.T, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return weights
    refitted = cho_solve(factor, correlation, check_finite=False)
    if not nonnegative or (refitted > 0).all():
        return refitted
    inverse, _ = lapack.dtrtri(factor[0], lower=1, overwrite_c=1)
    active = ActiveSet.from_inverse(np.tril(inverse), weights, refitted)
    active.settle()
    return active.weights
