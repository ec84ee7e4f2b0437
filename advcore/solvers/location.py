"""Facility location, greedily: rows that together are most similar to all rows.

Two exact ways to the same picks: `locate` over a similarity matrix, `locate_tiled` without one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from advcore.errors import missing_package
from advcore.signals import check

_TIE = 1e-9  # gains closer than this, relative, are ties: sums that differ by the order of their terms
_NOTHING = 1e-14  # gain over the first pick's below which a pick gains nothing
_DRIFT = 1e-6  # gain over the first pick's below which what updates left is summed again
_PANEL = 64  # rows of the matrix that are looked at together
_CHEAPER = 16  # by how much a row of an update is cheaper than an evaluation, which is made alone, and often in vain


@dataclass
class Located:
    """`picks` in order, each one's `gains`, the pick `nearest` to each row (N,), as positions in `picks`, and how many
    rows of similarities were summed up to find them (`evaluations`)."""

    picks: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    nearest: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    evaluations: int = 0

    def cluster_sizes(self) -> np.ndarray:
        """(K,) how many rows each pick is nearest to; ties go to the earlier pick, a pick is its own."""
        return np.bincount(self.nearest, minlength=len(self.picks)).astype(np.float64)


Sample = Callable[[int, np.ndarray], np.ndarray]
"""(step, rows not picked yet) to those of them that this step may pick."""


def locate(similarity: np.ndarray, k: int, *, sample: Sample | None = None) -> Located:
    """Greedily maximise sum_i max_{j in S} s_ij over S of at most k.

    Parameters
    ----------
    similarity : (N, N) float, symmetric, >= 0, each row most similar to itself.
    k : how many to pick at most.
    sample : which rows a step may pick (all that are left, if none of them gains anything); None: all that are left.

    Each gain is the best one there is, to 9 digits, summed in float64. Ties, which are common (two rows that are
    each other's nearest gain the same), go to the row most similar to all, whatever the order of the rows, then to
    the lower index. Stops early once no pick gains anything; the first pick is always made.

    Gains only fall, so old ones are bounds (Minoux 1978): the row of the best bound is evaluated again, O(N), until
    it stays best. When that has cost as much as bringing all gains up to date would (a sixteenth of an evaluation for
    each row that is covered better since), that is done instead; late, when a pick concerns few rows, after every pick.
    Cost about O(N^2 log k); O(N) memory beside the input.
    Reference: Mirzasoleiman et al. 2020, section 3, algorithm 1.
    """
    n = len(similarity)
    central = similarity.sum(1, dtype=np.float64)
    state = _Cover(similarity, central)
    found, least = Located(nearest=np.zeros(n, dtype=np.int64), evaluations=n), _NOTHING * central.max()
    while len(found.picks) < k:
        check()
        best = state.best(None if sample is None else sample(len(found.picks), state.open_rows))
        if sample is not None and state.gains[best] <= least:
            best = state.best(None)
        if best is None or (found.picks and state.gains[best] <= least):
            break
        found.gains.append(float(state.gains[best]))
        found.nearest[state.take(best)] = len(found.picks)
        found.picks.append(best)
    found.evaluations += state.evaluations
    return found


class _Cover:
    """What the picks so far cover, and an upper bound of every row's gain."""

    def __init__(self, similarity: np.ndarray, central: np.ndarray):
        n = len(similarity)
        self.similarity, self.central, self.evaluations = similarity, central, 0
        self.gains = central.copy()  # upper bounds
        self._known = central.copy()  # exact for the cover `_seen`
        self.covered, self._seen = np.zeros(n), np.zeros(n)
        self._fresh, self._summed = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
        self._spent, self._largest = 0, central.max()
        self._changed = np.zeros(0, dtype=np.int64)  # rows that are covered better than `_seen`
        self._buffer, self._ones = np.empty((_PANEL, n)), np.ones(_PANEL)

    @property
    def open_rows(self) -> np.ndarray:
        return np.flatnonzero(self.gains > -np.inf)

    def best(self, rows: np.ndarray | None) -> int | None:
        """The row that gains most, its gain exact; among `rows`, if given."""
        if len(self._changed) and self._dearer(1):
            self._update_all()
        while True:
            gains = self.gains if rows is None else self.gains[rows]
            top = gains.max(initial=-np.inf)
            if top == -np.inf:
                return None
            tied = (gains >= top - _TIE * abs(top)).nonzero()[0]
            tied = tied if rows is None else rows[tied]
            stale = tied[~self._fresh[tied]]
            if not len(stale):
                row = int(tied[0]) if len(tied) == 1 else self._most_central(tied)
                if self._summed[row] or top > _DRIFT * self._largest:
                    return row
                self._evaluate(row)  # what is left after many updates may be their rounding
                continue
            if self._dearer(len(stale)):
                self._update_all()
            else:
                for row in stale.tolist():
                    self._evaluate(row)

    def _dearer(self, count: int) -> bool:
        """Whether so many evaluations more cost as much as bringing all gains up to date."""
        return (self._spent + count) * _CHEAPER > len(self._changed)

    def take(self, row: int) -> np.ndarray:
        """Cover with `row`; who has it as the nearest pick."""
        own = self.similarity[row]
        nearer = own > self.covered
        better = nearer.nonzero()[0]
        self.covered[better] = own[better]
        self._changed = (self.covered > self._seen).nonzero()[0] if len(self._changed) else better
        self.gains[row] = self._known[row] = -np.inf
        self._fresh[:], self._summed[:] = False, False
        return better if nearer[row] else np.append(better, row)

    def _most_central(self, tied: np.ndarray) -> int:
        central = self.central[tied]
        return int(tied[central >= central.max() * (1 - _TIE)][0])

    def _evaluate(self, row: int) -> None:
        self._spent += 1
        self.evaluations += 1
        more = self._buffer[0]
        np.subtract(self.similarity[row], self.covered, out=more)
        self.gains[row] = np.maximum(more, 0, out=more).sum()
        self._fresh[row] = self._summed[row] = True

    def _update_all(self) -> None:
        """Bring all gains to the present cover: a row i that is covered better gains less, by how far its similarity
        reached above the old cover and no longer does."""
        changed = self._changed
        for start in range(0, len(changed), _PANEL):
            own = changed[start : start + _PANEL]
            reached, low = self._rows_at(own), self._seen[own]
            np.clip(reached, low[:, None], self.covered[own][:, None], out=reached)
            self._known -= self._ones[: len(own)] @ reached
            self._known += low.sum()
        self.evaluations += len(changed)
        self.gains[:] = self._known
        self._seen[changed] = self.covered[changed]
        self._changed = changed[:0]
        self._fresh[:], self._spent = True, 0

    def _rows_at(self, rows: np.ndarray) -> np.ndarray:
        """At most 64 rows of similarities, float64, in the buffer."""
        out = self._buffer[: len(rows)]
        if self.similarity.dtype == out.dtype:
            return np.take(self.similarity, rows, axis=0, out=out, mode="clip")
        out[...] = self.similarity[rows]
        return out


def locate_tiled(
    similar: Callable[[Tensor], Tensor],
    central: Tensor,
    k: int,
    *,
    batch: int = 64,
    sample: Sample | None = None,
) -> Located:
    """`locate` without a matrix: rows of similarities are made when they are looked at, `batch` of them at a time.

    Parameters
    ----------
    similar : (b,) rows to their (b, N) similarities.
    central : (N,) float64, each row's sum of similarities.
    k, sample : as `locate`.

    The best bounds are evaluated together, until one is at least every other bound; on CUDA that is one wait a batch.
    Cost `batch` rows of similarities a turn, one turn or two a pick; O(batch N) memory.
    """
    n, device = len(central), central.device
    bound, covered = central.clone(), torch.zeros(n, dtype=torch.float64, device=device)
    fresh, is_open = (torch.ones(n, dtype=torch.bool, device=device) for _ in range(2))
    nearest = torch.zeros(n, dtype=torch.long, device=device)
    found, least = Located(evaluations=n), _NOTHING * float(central.max())

    def best_of(rows: Tensor) -> Tensor:
        while True:
            top, order = bound[rows].topk(min(batch, len(rows)))
            tied = rows[bound[rows] >= top[0] - _TIE * top[0].abs()]
            if bool(fresh[tied].all()):
                own = central[tied]
                return tied[own >= own.max() * (1 - _TIE)][0]
            stale = rows[order][~fresh[rows[order]]]
            stale = stale if len(stale) else tied[~fresh[tied]][:batch]
            bound[stale] = (similar(stale) - covered).clamp_min_(0).sum(1)
            fresh[stale] = True
            found.evaluations += len(stale)

    while len(found.picks) < k:
        check()
        rows = is_open.nonzero()[:, 0]
        some = rows if sample is None else torch.from_numpy(sample(len(found.picks), rows.cpu().numpy())).to(device)
        best = best_of(some)
        if sample is not None and bound[best] <= least:
            best = best_of(rows)
        gain = float(bound[best])
        if found.picks and gain <= least:
            break
        row = similar(best[None])[0]
        nearer = row > covered
        nearer[best] = True
        nearest[nearer] = len(found.picks)
        covered = torch.maximum(covered, row)
        is_open[best], bound[best], fresh[:] = False, -torch.inf, False
        found.picks.append(int(best))
        found.gains.append(gain)
    found.nearest = nearest.cpu().numpy()
    return found


def locate_with_submodlib(similarity: np.ndarray, k: int) -> Located:
    """`locate` by submodlib's LazyGreedy (Kaushal et al. 2022), for comparison; it chooses by float32 sums."""
    try:
        from submodlib import FacilityLocationFunction
    except ImportError as error:
        raise missing_package("submodlib", "solver.backend: submodlib", "submodular", error) from None
    function = FacilityLocationFunction(n=len(similarity), mode="dense", sijs=similarity, separate_rep=False)
    # its own stops take gains below 1 for nothing
    pairs = function.maximize(
        budget=min(k, len(similarity) - 1),
        optimizer="LazyGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        verbose=False,
        show_progress=False,
    )
    order = [int(i) for i, _ in pairs]
    return _in_order(similarity, order if k < len(similarity) else [*order, *set(range(k)).difference(order)])


def _in_order(similarity: np.ndarray, order: list[int]) -> Located:
    """What these picks are worth, one after the other, up to the first that gains nothing."""
    covered, found = np.zeros(len(similarity)), Located(nearest=np.zeros(len(similarity), dtype=np.int64))
    for row in order:
        gain = float(np.maximum(similarity[row] - covered, 0).sum())
        if found.picks and gain <= _NOTHING * found.gains[0]:
            break
        nearer = similarity[row] > covered
        nearer[row] = True
        found.nearest[nearer] = len(found.picks)
        covered = np.maximum(covered, similarity[row])
        found.picks.append(row)
        found.gains.append(gain)
    return found
