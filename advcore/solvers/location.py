"""Facility location, greedily: rows that together are most similar to all rows.

Two exact ways to the same picks: `locate` over a similarity matrix, `locate_tiled` without one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from advcore.errors import require_package
from advcore.runtime.signals import check

_TIE = 1e-9  # gains closer than this, relative, are ties: sums that differ by the order of their terms
_NOTHING = 1e-14  # gain over the first pick's below which a pick gains nothing
_DRIFT = 1e-6  # gain over the first pick's below which what updates left is summed again
_PANEL = 64  # rows of the matrix that are looked at together
_CHEAPER = 16  # how much cheaper a row of an update is than an evaluation, which is made alone, and often in vain

Sample = Callable[[int, np.ndarray], np.ndarray]  # (step, rows not picked yet) to those that this step may pick


@dataclass(frozen=True, kw_only=True)
class Located:
    """What greedy facility location gives.

    picks : rows in the order in which they were picked. gains : what each pick added to the objective.
    nearest : (N,) for each row the position in `picks` of the pick that is most similar to it.
    evaluations : how many rows of similarities were summed up to find them.
    """

    picks: list[int]
    gains: list[float]
    nearest: np.ndarray
    evaluations: int

    def cluster_sizes(self) -> np.ndarray:
        """Return how many rows each pick is nearest to, (K,); ties go to the earlier pick, a pick is its own."""
        return np.bincount(self.nearest, minlength=len(self.picks)).astype(np.float64)


def locate(similarity: np.ndarray, k: int, *, sample: Sample | None = None) -> Located:
    """Greedily maximise sum_i max_{j in S} s_ij over S of at most k.

    Parameters
    ----------
    similarity : (N, N) float, symmetric, >= 0, each row most similar to itself.
    k : how many to pick at most.
    sample : which rows a step may pick (all that are left, if none of them gains anything); None: all that are left.

    Each gain is the best one possible, to 9 digits, summed in float64. Ties, which are common (two rows that are
    each other's nearest gain the same), go to the row most similar to all, whatever the order of the rows, then to
    the lower index. Stops early once no pick gains anything; the first pick is always made.

    Gains only fall, so old ones are upper bounds (Minoux 1978): the row of the best bound is evaluated again, O(N),
    until it stays best. When that has cost as much as bringing all gains up to date would (a sixteenth of an evaluation
    for each row that is covered better since), that is done instead; late, when a pick concerns few rows, after every
    pick. Cost about O(N^2 log k); O(N) memory besides the input.
    Reference: Mirzasoleiman et al. 2020, section 3, algorithm 1.
    """
    return _pick_greedily(_Cover(similarity), k, sample)


def _pick_greedily(state: "_Cover | _TiledCover", k: int, sample: Sample | None) -> Located:
    least = _NOTHING * state.largest
    picks: list[int] = []
    gains: list[float] = []
    for step in range(min(k, len(state.gains))):
        check()
        rows = sample and sample(step, state.open_rows)
        best = state.find_best(rows)
        if rows is not None and state.gains[best] <= least:
            best = state.find_best(None)
        if picks and state.gains[best] <= least:
            break
        picks.append(best)
        gains.append(float(state.gains[best]))
        state.take(best, step)
    return Located(picks=picks, gains=gains, nearest=state.nearest, evaluations=state.evaluations)


class _Cover:
    """What the picks so far cover, over a similarity matrix.

    covered : (N,) the similarity of each row to its nearest pick. nearest : as in `Located`.
    gains : (N,) upper bounds of the rows' gains, -inf for picks. They are exact where `_is_fresh`, but for the rounding
        of updates unless `_is_summed` too.
    """

    def __init__(self, similarity: np.ndarray) -> None:
        n = len(similarity)
        self.similarity = similarity
        self.central = similarity.sum(1, dtype=np.float64)
        self.largest = self.central.max()
        self.gains = self.central.copy()
        self.nearest = np.zeros(n, dtype=np.int64)
        self.evaluations = n
        self.covered, self._updated_cover = np.zeros((2, n))
        self._updated_gains = self.central.copy()  # exact gains for `_updated_cover`, the cover at the last update
        self._changed = np.zeros(0, dtype=np.int64)  # rows that are covered better since
        self._evaluations_since = 0
        self._is_fresh, self._is_summed = np.ones((2, n), dtype=bool)
        self._buffer = np.empty((_PANEL, n))

    @property
    def open_rows(self) -> np.ndarray:
        return np.flatnonzero(self.gains > -np.inf)

    def find_best(self, rows: np.ndarray | None) -> int:
        """Return the row that gains most, its gain exact; among `rows`, or, if None, among all that are not picked."""
        if len(self._changed) and self._is_update_cheaper(1):
            self._update_all()
        while True:  # until the rows with the highest bound are fresh: then no other row can gain more
            gains = self.gains if rows is None else self.gains[rows]
            top = gains.max()
            tied = (gains >= top - _TIE * abs(top)).nonzero()[0]
            tied = tied if rows is None else rows[tied]
            stale = tied[~self._is_fresh[tied]].tolist()
            if not stale:
                row = _find_most_central(tied, self.central)
                if self._is_summed[row] or top > _DRIFT * self.largest:
                    return row
                self.evaluate(row)  # so small a gain may be the rounding of many updates
            elif self._is_update_cheaper(len(stale)):
                self._update_all()
            else:
                for row in stale:
                    self.evaluate(row)

    def _is_update_cheaper(self, count: int) -> bool:
        """Return whether bringing all gains up to date costs less than `count` more evaluations, and those since."""
        return (self._evaluations_since + count) * _CHEAPER > len(self._changed)

    def take(self, row: int, position: int) -> None:
        """Pick a row, which gets this position among the picks."""
        similarity = self.similarity[row]
        nearer = (similarity > self.covered).nonzero()[0]
        self.covered[nearer] = similarity[nearer]
        self.nearest[nearer] = self.nearest[row] = position
        self._changed = (self.covered > self._updated_cover).nonzero()[0]
        self.gains[row] = self._updated_gains[row] = -np.inf
        self._is_fresh[:] = self._is_summed[:] = False

    def evaluate(self, row: int) -> None:
        self._evaluations_since += 1
        self.evaluations += 1
        more = self._buffer[0]
        np.subtract(self.similarity[row], self.covered, out=more)
        self.gains[row] = np.maximum(more, 0, out=more).sum()
        self._is_fresh[row] = self._is_summed[row] = True

    def _update_all(self) -> None:
        """Bring all gains to the present cover.

        Each row i that is covered better since the last update lowers the gain of row j by the part of s_ij between its
        old and its new cover.
        """
        changed = self._changed
        for start in range(0, len(changed), _PANEL):
            panel = changed[start : start + _PANEL]
            reached = self._buffer[: len(panel)]
            reached[...] = self.similarity[panel]
            low = self._updated_cover[panel]
            np.clip(reached, low[:, None], self.covered[panel][:, None], out=reached)
            self._updated_gains -= np.ones(len(panel)) @ reached
            self._updated_gains += low.sum()
        self.evaluations += len(changed)
        self.gains[:] = self._updated_gains
        self._updated_cover[changed] = self.covered[changed]
        self._changed = changed[:0]
        self._is_fresh[:] = True
        self._evaluations_since = 0


def _find_most_central(tied: np.ndarray | Tensor, central: np.ndarray | Tensor) -> int:
    """Return which of the tied rows is most similar to all rows; of several the first."""
    central = central[tied]
    return int(tied[central >= central.max() * (1 - _TIE)][0])


def locate_tiled(
    similar: Callable[[Tensor], Tensor],
    central: Tensor,
    k: int,
    *,
    batch: int = 64,
    sample: Sample | None = None,
    points: int | None = None,
) -> Located:
    """Pick what `locate` picks, without a matrix: rows of similarities are computed when they are looked at.

    Parameters
    ----------
    similar : (b,) rows to their (b, N) similarities.
    central : (N,) float64, each row's sum of similarities.
    k, sample : as in `locate`.
    points : where what is covered are not the rows themselves but other points, how many: `similar` then gives (b,
        points), and a pick need not be the nearest one to anything.
    batch : how many rows of similarities are computed at a time.

    The best bounds are evaluated together, until one is at least every other bound; on CUDA that is one wait a batch.
    Cost `batch` rows of similarities a turn, one turn or two a pick; O(batch N) memory.
    """
    return _pick_greedily(_TiledCover(similar, central, batch, points), k, sample)


class _TiledCover:
    """What the picks so far cover, on any device and without a matrix; attributes are those of `_Cover`."""

    def __init__(
        self, similar: Callable[[Tensor], Tensor], central: Tensor, batch: int, points: int | None = None
    ) -> None:
        self.gains = central.clone()
        self.largest = float(central.max())
        self.evaluations = len(central)
        self._similar, self._central, self._batch = similar, central, batch
        self._covers_rows = points is None
        self._covered = central.new_zeros(points or len(central))
        self._nearest = torch.zeros_like(self._covered, dtype=torch.long)
        self._is_fresh = torch.ones_like(central, dtype=torch.bool)

    @property
    def open_rows(self) -> np.ndarray:
        return self._find_open().cpu().numpy()

    @property
    def nearest(self) -> np.ndarray:
        return self._nearest.cpu().numpy()

    def _find_open(self) -> Tensor:
        return (self.gains > -torch.inf).nonzero()[:, 0]

    def find_best(self, rows: np.ndarray | None) -> int:
        candidates = self._find_open() if rows is None else torch.from_numpy(rows).to(self._central.device)
        while True:
            gains = self.gains[candidates]
            top, order = gains.topk(min(self._batch, len(gains)))
            tied = candidates[gains >= top[0] - _TIE * top[0].abs()]
            if bool(self._is_fresh[tied].all()):
                return _find_most_central(tied, self._central)
            best = candidates[order]
            stale = best[~self._is_fresh[best]]
            if not len(stale):  # more rows tie than are evaluated together
                stale = tied[~self._is_fresh[tied]][: self._batch]
            self.gains[stale] = (self._similar(stale) - self._covered).clamp_min_(0).sum(1)
            self._is_fresh[stale] = True
            self.evaluations += len(stale)

    def take(self, row: int, position: int) -> None:
        similarity = self._similar(torch.tensor([row], device=self._central.device))[0]
        is_nearer = similarity > self._covered
        if self._covers_rows:
            is_nearer[row] = True
        self._nearest[is_nearer] = position
        self._covered = torch.maximum(self._covered, similarity)
        self.gains[row] = -torch.inf
        self._is_fresh[:] = False


def locate_with_submodlib(similarity: np.ndarray, k: int) -> Located:
    """Pick by submodlib's LazyGreedy (Kaushal et al. 2022), for comparison; it chooses by float32 sums."""
    with require_package("submodlib", "solver.backend: submodlib", "submodular"):
        from submodlib import FacilityLocationFunction
    n = len(similarity)
    function = FacilityLocationFunction(n=n, mode="dense", sijs=similarity, separate_rep=False)
    # it takes gains below 1 for nothing where it may stop on its own
    pairs = function.maximize(
        budget=min(k, n - 1),
        optimizer="LazyGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        verbose=False,
        show_progress=False,
    )
    order = [int(i) for i, _ in pairs]
    if k >= n:
        order += set(range(n)).difference(order)
    return _replay(similarity, order)


def _replay(similarity: np.ndarray, order: list[int]) -> Located:
    """Pick rows in a given order, up to the first that gains nothing."""
    state = _Cover(similarity)
    gains: list[float] = []
    for row in order:
        state.evaluate(row)
        gain = float(state.gains[row])
        if gains and gain <= _NOTHING * gains[0]:
            break
        state.take(row, len(gains))
        gains.append(gain)
    return Located(picks=order[: len(gains)], gains=gains, nearest=state.nearest, evaluations=0)
