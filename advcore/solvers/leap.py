"""Leaps: several steps of a pursuit at once, for the cost of little more than one.

To learn which row is best next, a step reads the products of all N rows with the m rows in use: m N numbers, most of a
pursuit's time. A leap reads them once for many steps, in three stages:

1. Guess that the next rows to join are among the candidates, the few rows that score best now.
2. Try steps that look at the candidates alone, whose products are small enough to stay in cache.
3. Compute all rows' correlations after each of these trials, as one matrix product. A trial in which a row outside the
   candidates scored better than the row that joined was a wrong guess: it is undone, with all trials after it.

So a leap picks what single steps would pick.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from advcore.solvers.products import GramProducts

if TYPE_CHECKING:
    from advcore.solvers.pursuit import PursuitState

_LEAP_FROM = 2**21  # numbers that a step would read: leaping pays from here on
_FIRST_LEAP = 8  # steps that the first leap tries, and every leap at least
_LONGEST_LEAP = 64  # steps that a leap tries at most
_FEW = 256  # candidates at least; an eighth of all rows if that is more


@dataclass
class Pace:
    """When to leap and how far, from how many steps of the last leaps were right. `length`: steps to try next."""

    length: int = _FIRST_LEAP
    _usual: float = _FIRST_LEAP  # right steps of a leap: a mean in which the last leap counts half
    _turns_to_wait: int = 0

    def is_due(self) -> bool:
        """Count a turn of the pursuit, and return whether a leap may be tried in it."""
        self._turns_to_wait -= 1
        return self._turns_to_wait <= 0

    def adapt(self, right: int, *, needs_step: bool) -> None:
        """Learn from a leap of which `right` steps were right; `needs_step`: the next turn has to be a step."""
        self.length = min(2 * self.length, _LONGEST_LEAP) if right == self.length else max(_FIRST_LEAP, right)
        self._usual = (self._usual + right) / 2
        self._turns_to_wait = 2 if needs_step else 1
        if 2 * self._usual < _FIRST_LEAP:  # most trials are undone, so that leaps cost more than they save
            self._turns_to_wait = 2 * _FIRST_LEAP


def leap(state: "PursuitState", pace: Pace) -> int:
    """Take several steps at once where that pays, and return how many: 0 if none.

    Ends before a step in which a row leaves, or the best row is a combination of the support: that takes a step.
    """
    products = state.products
    pays = state.active.high * len(state.scores) >= _LEAP_FROM
    if not pace.is_due() or not isinstance(products, GramProducts) or not pays or state.is_refresh_due():
        return 0
    candidates = _find_candidates(state.scores)
    limit = min(pace.length, state.problem.k - state.active.size)
    trials = _try_steps(state, products, candidates, limit)
    right = _keep_right_trials(state, candidates, trials) if trials else 0
    pace.adapt(right, needs_step=right == len(trials) < limit)
    state.steps += right
    state.steps_since_refresh += right
    return right


def _find_candidates(scores: np.ndarray) -> np.ndarray:
    count = min(max(_FEW, len(scores) // 8), len(scores))
    best = np.argpartition(-scores, count - 1)[:count]
    # in the order of all rows, so that the first of several equal scores is the one that a step picks
    return np.sort(best[scores[best] > -np.inf])


class _Trial(NamedTuple):
    """A step among the candidates: the row that joined, its score before, and the weights of all slots after."""

    row: int
    score: float
    weights: np.ndarray


def _try_steps(state: "PursuitState", rows: GramProducts, candidates: np.ndarray, limit: int) -> list[_Trial]:
    """Let up to `limit` candidates join the support, the best first, without looking at any other row."""
    active = state.active
    products = rows.read_block(candidates, active.high + limit)
    least = state.least[candidates]
    is_open = np.ones(len(candidates), dtype=bool)
    weights = state.applied
    correlation = correlation_before = state.residual_correlation[candidates]
    trials: list[_Trial] = []
    while len(trials) < limit:
        scores = state.score(correlation, is_open, least)
        best = int(scores.argmax())
        row = int(candidates[best])
        if scores[best] == -np.inf or not state.join(row, correlation[best]):
            break
        if active.has_rows_to_drop():
            active.undo_join(weights)
            break
        active.settle()
        is_open[best] = False
        products[active.newest] = rows.read_row(row)[candidates]
        weights = active.weights.copy()
        trials.append(_Trial(row=row, score=scores[best], weights=weights))
        change = (weights - state.applied)[: active.high].astype(products.dtype)
        correlation = correlation_before - change @ products[: active.high]
    return trials


def _keep_right_trials(state: "PursuitState", candidates: np.ndarray, trials: list[_Trial]) -> int:
    """Make the trials that were guessed right steps of the pursuit, undo the others, and return how many were right.

    Trials after the first that meets the tolerance are undone, too.
    """
    high = state.active.high
    weights = np.stack([trial.weights[:high] for trial in trials])
    # (len(trials), N): all rows' correlations with the residual after each trial
    correlation = state.residual_correlation - state.products.correlate(weights - state.applied[:high], exact=False)
    unbeaten = _count_unbeaten(state, candidates, trials, correlation)
    for right, trial in enumerate(trials[:unbeaten], start=1):
        state.is_open[trial.row] = False
        state.append_residual(correlation[right - 1], trial.weights)
        if state.path[-1] <= state.tolerance:
            break
    for trial in reversed(trials[right - 1 : -1]):
        state.active.undo_join(trial.weights)
    state.residual_correlation = correlation[right - 1].copy()
    state.applied[:high] = weights[right - 1]
    return right


def _count_unbeaten(
    state: "PursuitState", candidates: np.ndarray, trials: list[_Trial], correlation: np.ndarray
) -> int:
    """Return how many trials come before the first in which a row outside the candidates scored better.

    The first trial is right in any case: its row has the best score of all.
    """
    is_outside = state.is_open.copy()
    is_outside[candidates] = False
    best_outside = state.score(correlation[:-1], is_outside, state.least).max(1, initial=-np.inf)
    is_beaten = best_outside > [trial.score for trial in trials[1:]]
    return 1 + int(np.append(is_beaten, True).argmax())
