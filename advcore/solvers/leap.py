"""Leaps: several steps of a pursuit at once, for the cost of little more than one.

To learn which row is best next, a step reads the products of all N rows with the m rows in use: m N numbers, most of a
pursuit's time. A leap reads them once for many steps, in three stages:

1. Guess that the next rows to join are among the candidates, the few rows that score best now.
2. Try steps that look at the candidates alone, whose products are small enough to stay in cache.
3. Compute all rows' correlations after each of these trials, as one matrix product. A trial in which a row that is no
   candidate scored better than the row that joined was a wrong guess: it is undone, with all trials after it.

So a leap picks what single steps would pick.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from advcore.solvers.pursuit import PursuitState

_LEAP_FROM = 2**21  # numbers that a step would read: leaping pays from here on
_FIRST_LEAP = 8  # steps that the first leap tries, and every leap at least
_LONGEST_LEAP = 64  # steps that a leap tries at most
_FEW = 256  # candidates at least; an eighth of all rows if that is more


class Trial(NamedTuple):
    """A step among the candidates: the row that joined, its score before, and the weights of all slots after."""

    row: int
    score: float
    weights: np.ndarray


class Leaper:
    """Takes leaps of a pursuit where they pay."""

    def __init__(self, state: "PursuitState"):
        self._state = state
        self._pace = Pace()

    def leap(self) -> int:
        """Take several steps at once where that pays, and return how many: 0 if none.

        Ends before a step in which a row leaves, or the best row is a combination of the support: such a step is
        taken alone.
        """
        if not self._pace.is_due() or not self._is_worthwhile():
            return 0
        state = self._state
        candidates = self._find_candidates()
        limit = min(self._pace.length, state.problem.k - state.active.size)
        trials = self._try_steps(candidates, limit)
        accepted = self._accept(trials, candidates) if trials else 0
        self._pace.adapt(accepted, needs_step=accepted == len(trials) < limit)
        state.steps += accepted
        state.steps_since_refresh += accepted
        return accepted

    def _is_worthwhile(self) -> bool:
        """Return whether a leap may be cheaper than steps here, and no refresh is due, which needs a step."""
        state = self._state
        numbers_read_by_step = state.active.high * len(state.scores)
        return state.products.supports_leaps and numbers_read_by_step >= _LEAP_FROM and not state.is_refresh_due()

    def _find_candidates(self) -> np.ndarray:
        """Return the open rows with the best scores, in ascending order of their index."""
        scores = self._state.scores
        count = min(max(_FEW, len(scores) // 8), len(scores))
        best = np.argpartition(-scores, count - 1)[:count]
        return np.sort(best[scores[best] > -np.inf])

    def _try_steps(self, candidates: np.ndarray, limit: int) -> list[Trial]:
        """Let up to `limit` candidates join the support, the best first, without looking at any other row."""
        state = self._state
        active = state.active
        products = state.products.read_block(candidates, active.high + limit)
        least = state.least[candidates]
        is_open = np.ones(len(candidates), dtype=bool)
        weights_before = state.applied[: active.high].copy()
        weights = weights_before
        correlation_before = state.residual_correlation[candidates]
        correlation = correlation_before
        trials: list[Trial] = []
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
            products[active.newest] = state.products.read_row(row)[candidates]
            weights = active.weights[: active.high].copy()
            trials.append(Trial(row=row, score=scores[best], weights=weights))
            change = weights - _extend(weights_before, len(weights))
            correlation = correlation_before - change.astype(products.dtype) @ products[: len(weights)]
        return trials

    def _accept(self, trials: list[Trial], candidates: np.ndarray) -> int:
        """Make the trials that were guessed right steps of the pursuit, undo the others, and return how many are right.

        Trials after the first that meets the tolerance are undone, too.
        """
        state = self._state
        high = state.active.high
        weights = np.stack([_extend(trial.weights, high) for trial in trials])
        change = state.products.correlate(weights - state.applied[:high], exact=False)
        correlation = state.residual_correlation - change
        right = self._count_right(trials, candidates, correlation)
        for accepted, trial in enumerate(trials[:right], start=1):
            state.is_open[trial.row] = False
            state.append_residual(correlation[accepted - 1], trial.weights)
            if state.path[-1] <= state.tolerance:
                break
        for trial in reversed(trials[accepted - 1 : -1]):
            state.active.undo_join(trial.weights)
        state.residual_correlation = correlation[accepted - 1].copy()
        state.applied[:high] = weights[accepted - 1]
        return accepted

    def _count_right(self, trials: list[Trial], candidates: np.ndarray, correlation: np.ndarray) -> int:
        """Return how many trials come before the first in which another row than a candidate should have joined.

        The first trial is right in any case: its row has the best score of all.
        correlation : (len(trials), N), of all rows with the residual after each trial.
        """
        state = self._state
        is_other = state.is_open.copy()
        is_other[candidates] = False
        best_others = state.score(correlation[:-1], is_other, state.least).max(1, initial=-np.inf)
        is_wrong = best_others > [trial.score for trial in trials[1:]]
        return 1 + int(np.append(is_wrong, True).argmax())


class Pace:
    """When to leap and how far, from how many steps of the last leaps were accepted. `length`: steps to try next."""

    def __init__(self):
        self.length = _FIRST_LEAP
        self._usual = float(_FIRST_LEAP)  # steps accepted: a mean in which the last leap counts half
        self._turns_to_wait = 0

    def is_due(self) -> bool:
        """Count a turn of the pursuit, and return whether a leap should be tried in it."""
        self._turns_to_wait -= 1
        return self._turns_to_wait <= 0

    def adapt(self, accepted: int, *, needs_step: bool) -> None:
        """Learn from a leap of which `accepted` steps were accepted; `needs_step`: the next turn has to be a step."""
        if accepted == self.length:
            self.length = min(2 * self.length, _LONGEST_LEAP)
        else:
            self.length = max(_FIRST_LEAP, accepted)
        self._usual = (self._usual + accepted) / 2
        if 2 * self._usual < _FIRST_LEAP:
            # most of what is tried is undone, so leaps cost more than they save for the time being
            self._turns_to_wait = 2 * _FIRST_LEAP
        else:
            self._turns_to_wait = 1 + needs_step


def _extend(weights: np.ndarray, size: int) -> np.ndarray:
    """Append zeros up to `size`, for slots that were taken later."""
    return np.concatenate([weights, np.zeros(size - len(weights))])
