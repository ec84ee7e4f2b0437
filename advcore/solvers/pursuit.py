"""Non-negative ridge orthogonal matching pursuit (OMP): one loop, over a Gram matrix or over the rows' factors."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lapack

from advcore.signals import check
from advcore.solvers.active import ActiveSet
from advcore.solvers.products import Products

REFRESH = 128  # steps after which correlations are summed again in float64
LEAST = {True: 1e-10, False: 1e-8}  # correlation over norms below which a row is orthogonal; by `precise`
_LEAP_FROM = 2**21  # entries of the matrix that a step would read, before steps are taken several at once
_FIRST_LEAP, _LONGEST_LEAP = 8, 64  # steps
_FEW = 256  # rows that a leap follows, at least; else an eighth of all
PIVOT = {True: 1e-12, False: 2e-6}  # pivot over diagonal below which a row is a combination of others; by `precise`


@dataclass
class Pursuit:
    """One round's answer: the rows in use (`support`) in the order they joined, their `weights`, the relative residual
    after each pick (`path`), and why it `stopped`."""

    support: list[int] = field(default_factory=list)
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    path: list[float] = field(default_factory=list)
    stopped: str = "budget"


def pursue(
    products: Products,
    correlation: np.ndarray,
    target_norm: float,
    k: int,
    *,
    ridge: float = 0.0,
    nonnegative: bool = True,
    tolerance: float = 0.0,
    closed: np.ndarray | None = None,
    residual: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> Pursuit:
    """Minimise ||sum_i w_i g_i - t||^2 + ridge ||w||^2 over at most k rows, greedily.

    Each step lets the row join that correlates most with the residual (by absolute value unless
    `nonnegative`) and refits all weights. With `nonnegative`, a refit that would turn weights negative walks
    towards it until the first reaches 0 and lets that row leave (`ActiveSet.settle`), so the weights are the
    non-negative least-squares solution on the support.

    Parameters
    ----------
    products : of N rows.
    correlation : (N,) float64, <g_i, t>.
    target_norm : ||t||.
    k : most rows in the support.
    ridge : absolute, >= 0.
    tolerance : stop once ||residual|| <= tolerance ||t||.
    closed : (N,) bool, rows that may not join.
    residual : (rows, weights) to the exact relative residual; asked before the tolerance ends the pursuit, since from
        float32 products it is known to about 3e-4 only.

    Weights, pivots and the residual's correlations are float64. What a step changes in the correlations is a sum in the
    products' own precision; after 128 steps (or the leap that passes them) all of it is summed again in float64, and
    the weights are corrected.
    Cost O(N) + O(m^2) a pick for the choice and the refit, m the support's size, and the products': O(N m) from a
    Gram matrix, O(N C D) from factors. A row that leaves costs O(m^2).
    Reference: Killamsetty et al. 2021 (GradMatch), algorithm 2; Rubinstein et al. 2008 (Batch-OMP). Differs:
    a row that left may join again; rows with no positive correlation never join.
    """
    run = _Run(products, correlation, target_norm, k, ridge, nonnegative, tolerance, closed, residual)
    while not run.is_done():
        check()
        if not run.leap():
            run.step()
    slots = run.active.slots
    return Pursuit(run.active.members[slots].tolist(), run.active.weights[slots], run.path, run.stopped)


class _Run:
    """A pursuit on its way.

    left : (N,) correlations of the residual at the weights `applied`. scores : (N,) of them, since `is_done` was asked.
    """

    def __init__(self, products, correlation, target_norm, k, ridge, nonnegative, tolerance, closed, residual):
        n = len(correlation)
        self.products, self.correlation, self.target_norm, self.k = products, correlation, target_norm, k
        self.ridge, self.nonnegative, self.tolerance, self.residual = ridge, nonnegative, tolerance, residual
        self.active = ActiveSet(k, dependent=PIVOT[products.precise], nonnegative=nonnegative)
        self.least = LEAST[products.precise] * target_norm * np.sqrt(np.maximum(products.diagonal, 0))
        self.is_open = np.ones(n, dtype=bool) if closed is None else ~closed
        self.left, self.applied = correlation.copy(), np.zeros(k)
        self.path: list[float] = []
        self.stopped = "budget"
        self._steps, self._most, self._drifted = 0, 10 * n + 10 * k, 0
        self._leap, self._lately, self._wait = _FIRST_LEAP, float(_FIRST_LEAP), 0

    def is_done(self) -> bool:
        """Whether it ends here; `stopped` says why."""
        if self.active.size == self.k:
            return True
        if self.path and self.path[-1] <= self.tolerance:
            self.stopped = "tolerance"
            return True
        self.scores = self._score(self.left, self.is_open, self.least)
        if self.scores.max(initial=-np.inf) == -np.inf:
            self.stopped = "no row correlates with the residual"
            return True
        if self._steps > self._most:
            self.stopped = "rounding"
            return True
        return False

    def _score(self, left: np.ndarray, is_open: np.ndarray, least: np.ndarray) -> np.ndarray:
        """How much each row correlates with the residual; -inf for rows that may not join."""
        score = left if self.nonnegative else np.abs(left)
        return np.where(is_open & (score > least), score, -np.inf)

    def step(self) -> None:
        """The row of the best score joins; rows whose weight reaches 0 leave."""
        active, products = self.active, self.products
        self._steps += 1
        j = int(self.scores.argmax())
        self.is_open[j] = False
        if not self._join(j, self.left[j]):
            return  # a combination of the support: closed for this round
        gone = active.settle()
        self.is_open[[i for i in gone if i != j]] = True
        self._drifted += 1
        if self._drifted >= REFRESH:
            self._refresh()
        weights = active.weights[: active.high]
        self.left -= products.spread(weights - self.applied[: active.high], exact=False)
        self.applied[: active.high] = weights
        self._note(self.left)

    def leap(self) -> int:
        """Several steps at once, where no row leaves: how many were taken.

        The rows of the best scores are followed alone, which costs a fraction of a step each. Then the correlations of
        all rows after each of these steps are one matrix product, and the steps stand up to the first at which a row
        outside would have been better; so the picks are those of `step`.
        """
        high, size = self.active.high, self.active.size
        self._wait -= 1
        small = not self.products.leaps or high * len(self.left) < _LEAP_FROM
        if small or self._wait > 0 or self._drifted >= REFRESH:
            return 0
        few = self._best_few()
        most = min(self._leap, self.k - size)
        taken = self._follow(few, most)
        kept = self._verified(taken, few) if taken else 0
        self._leap = min(2 * self._leap, _LONGEST_LEAP) if kept == self._leap else max(_FIRST_LEAP, kept)
        self._lately = (self._lately + kept) / 2
        about_to_leave = len(taken) < most and kept == len(taken)  # which takes a step
        self._wait = int(about_to_leave) + 1 if 2 * self._lately >= _FIRST_LEAP else 2 * _FIRST_LEAP
        self._steps, self._drifted = self._steps + kept, self._drifted + kept
        return kept

    def _best_few(self) -> np.ndarray:
        scores = self.scores
        count = min(max(_FEW, len(scores) // 8), len(scores))
        few = np.argpartition(-scores, count - 1)[:count]
        return np.sort(few[scores[few] > -np.inf])

    def _follow(self, few: np.ndarray, most: int) -> list["_Taken"]:
        """Up to `most` joins of rows among `few`, until one would make a row leave or is dependent."""
        active, high = self.active, self.active.high
        products, start, least = self.products.among(few, high + most), self.left[few], self.least[few]
        before, taken, left, is_open = self.applied[:high].copy(), [], start, np.ones(len(few), dtype=bool)
        while len(taken) < most:
            score = self._score(left, is_open, least)
            at = int(score.argmax()) if len(few) else 0
            if not len(few) or score[at] == -np.inf or not self._join(int(few[at]), left[at]):
                break
            if active.must_leave():
                active.undo(taken[-1].weights if taken else before)
                break
            active.settle()
            is_open[at] = False
            weights = active.weights[: active.high].copy()
            products[active.newest] = self.products.row(int(few[at]))[few]
            taken.append(_Taken(int(few[at]), score[at], weights))
            change = weights - _grown(before, len(weights))
            left = start - change.astype(products.dtype) @ products[: len(weights)]
        return taken

    def _verified(self, taken: list["_Taken"], few: np.ndarray) -> int:
        """Keep the steps up to the first that a row outside `few` would have won; returns how many."""
        high = self.active.high
        weights = np.stack([_grown(one.weights, high) for one in taken])
        left = self.left - self.products.spread(weights - self.applied[:high], exact=False)
        outside = self.is_open.copy()
        outside[few] = False
        beaten = self._score(left[:-1], outside, self.least).max(1, initial=-np.inf) > [one.score for one in taken[1:]]
        kept = int(beaten.argmax()) + 1 if beaten.any() else len(taken)
        for count in range(kept):
            self.is_open[taken[count].row] = False
            self._note(left[count], taken[count].weights)
            if self.path[-1] <= self.tolerance:
                kept = count + 1
                break
        for one in taken[kept - 1 : -1][::-1]:
            self.active.undo(one.weights)
        self.left, self.applied[:high] = left[kept - 1].copy(), weights[kept - 1]
        return kept

    def _join(self, j: int, left: float) -> bool:
        active = self.active
        column = self.products.with_row(j, active.high)
        slot = active.free_slot()
        if not active.join(j, column, self.products.diagonal[j] + self.ridge, left):
            return False
        self.products.put(slot, j)
        return True

    def _refresh(self) -> None:
        """Sum the correlations again in float64, and correct the weights by what rounding left over."""
        self._drifted = 0
        active, high = self.active, self.active.high
        self.applied[:high] = active.weights[:high]
        self.left = self.correlation - self.products.spread(self.applied[:high], exact=True)
        active.correct(self.left[active.members[:high]] - self.ridge * self.applied[:high])
        self.is_open[active.settle()] = True

    def _note(self, left: np.ndarray, weights: np.ndarray | None = None) -> None:
        """The relative residual after a pick."""
        weights = self.active.weights[: self.active.high] if weights is None else weights
        used = np.flatnonzero(weights)
        members, used = self.active.members[used], weights[used]
        squared = self.target_norm**2 - used @ (self.correlation[members] + left[members])
        value = math.sqrt(max(squared, 0.0)) / self.target_norm
        if value <= self.tolerance and self.residual is not None and not self.products.precise:
            value = self.residual(members, used)
        self.path.append(value)


class _Taken(NamedTuple):
    """A step of a leap: who joined, its score then, and all weights after it."""

    row: int
    score: float
    weights: np.ndarray


def _grown(weights: np.ndarray, size: int) -> np.ndarray:
    """With zeros at the end, up to `size`."""
    grown = np.zeros(size)
    grown[: len(weights)] = weights
    return grown


def refit(
    gram: np.ndarray, correlation: np.ndarray, weights: np.ndarray, *, ridge: float, nonnegative: bool
) -> np.ndarray:
    """(m,) least-squares weights on a support, from its float64 products; 0 for rows that leave it.

    gram : (m, m), overwritten; correlation : (m,); weights : (m,) what to walk from. Cost O(m^3 / 3).
    """
    gram[np.diag_indices(len(gram))] += ridge
    try:
        factor = cho_factor(gram.T, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return weights  # dependent to working precision: what the pursuit found stands
    wanted = cho_solve(factor, correlation, check_finite=False)
    if not nonnegative or (wanted > 0).all():
        return wanted
    inverse, _ = lapack.dtrtri(factor[0], lower=1, overwrite_c=1)
    active = ActiveSet.solved(np.tril(inverse), weights, wanted)
    active.settle()
    return active.weights
