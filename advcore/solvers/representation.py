"""Rows that represent other rows one by one: facility location between two sets, for instance a pool and real data."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from advcore.rows import DenseRows, FactoredRows, Rows, cut
from advcore.rows.pairwise import distances_between, use_exact_factors
from advcore.solvers.base import matrix_is_held
from advcore.solvers.location import Located, locate_tiled
from advcore.types import Selection

_BATCH = 64  # rows whose distances are computed together


def represent(
    rows: Rows, goal: Rows, k: int, *, squared: bool, unit: float, matrix: str, counts: Tensor | None = None
) -> Selection:
    """Pick at most k of N rows that are, as medoids, nearest to the M rows of the goal, greedily.

    Parameters
    ----------
    rows, goal : the candidates, and what is represented; of one kind.
    k : how many to pick at most, 1 to N.
    squared, unit, matrix : of distances, as in `Craig`.
    counts : (M,) how many times each row of the goal counts, in place of once; weights then sum to the sum of these.

    Maximises the sum over the goal's rows of their similarity, max(distance) - distance, to the nearest pick; each gain
    is the best one possible. Once no pick gains anything, as after M picks at most, it begins again for the same goal
    among the rows not picked. A pick that is nearest to nothing in the end is taken back. Weights are the numbers of
    rows of the goal that each pick is nearest to, averaged over the rounds by their counts, and sum to N.

    `info`: `gains` and `evaluations` of the first round, `rounds`. Cost O(N M (C + D)) time and 4 N M bytes, where that
    is held, then about O(k M) a round; else O(M (C + D)) for each row that is looked at.
    Reference: Mirzasoleiman et al. 2020, eq. 14. Differs: what is represented is another set than what is picked from.
    """
    stands_for = float(len(rows) if counts is None else counts.sum())
    if counts is None:
        counts = torch.ones(len(goal), dtype=torch.float64, device=rows.device)
    distances = _Distances(rows, goal, counts, squared=squared, unit=unit, matrix=matrix)
    is_open = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    picks: list[Tensor] = []
    sizes: list[Tensor] = []
    info: dict = {}
    missing = k
    while missing and bool(is_open.any()):
        chosen, represented, located = _pick_once(distances, is_open.nonzero()[:, 0], missing)
        picks.append(chosen)
        sizes.append(represented)
        is_open[chosen] = False
        missing -= len(chosen)
        info = info or {"gains": [gain * unit for gain in located.gains], "evaluations": located.evaluations}
    weights = [size * (len(size) / (k - missing) * stands_for / float(counts.sum())) for size in sizes]
    info |= {"rounds": len(picks), "stopped": "budget"}
    return Selection(indices=torch.cat(picks), weights=torch.cat(weights), info=info)


def _pick_once(distances: "_Distances", candidates: Tensor, k: int) -> tuple[Tensor, Tensor, Located]:
    """Pick at most k candidates in one round; return those that represent something, and how much, and the round."""
    located = locate_tiled(
        partial(distances.compute_similarities, candidates),
        distances.central[candidates],
        k,
        batch=_BATCH,
        points=len(distances.counts),
    )
    nearest = torch.from_numpy(located.nearest).to(candidates.device)
    represented = torch.bincount(nearest, weights=distances.counts, minlength=len(located.picks))
    chosen = candidates[torch.tensor(located.picks, device=candidates.device)]
    return chosen[represented > 0], represented[represented > 0], located


class _Distances:
    """Similarities of candidates to the rows of a goal, times what these count.

    counts : (M,) of these. central : (N,) float64, each candidate's sum of similarities.
    """

    def __init__(self, rows: Rows, goal: Rows, counts: Tensor, *, squared: bool, unit: float, matrix: str) -> None:
        self._n = len(rows)
        self.counts = counts
        self._joined = use_exact_factors(_join(rows, goal))
        self._between = distances_between(self._joined, squared=squared, unit=unit)
        self._goal = slice(self._n, self._n + len(goal))
        self._held: Tensor | None = None
        if matrix_is_held(matrix, round((self._n * len(goal)) ** 0.5)):
            self._held = torch.empty(self._n, len(goal), device=rows.device)
        self._largest = 0.0
        sums = []
        for piece in cut(torch.arange(self._n, device=rows.device), self._n, _BATCH):
            distances = self._compute(piece)
            if self._held is not None:
                self._held[piece] = distances.float()
                distances = self._held[piece].double()
            self._largest = max(self._largest, float(distances.max()))
            sums.append(distances @ counts)
        self.central = float(counts.sum()) * self._largest - torch.cat(sums)

    def compute_similarities(self, candidates: Tensor, i: Tensor) -> Tensor:
        """Return the similarities (len(i), M) float64 of the candidates at `i`."""
        positions = candidates[i]
        distances = self._compute(positions) if self._held is None else self._held[positions].double()
        return (self._largest - distances) * self.counts

    def _compute(self, i: Tensor) -> Tensor:
        return self._between(self._joined.gram(i, self._goal), i, self._goal)


def _join(rows: Rows, goal: Rows) -> Rows:
    """Return the rows of both as one."""
    if isinstance(rows, FactoredRows):
        assert isinstance(goal, FactoredRows), "rows and goal are of the same kind"
        pairs = zip(rows.residuals, goal.residuals, strict=True)
        features = zip(rows.features, goal.features, strict=True)
        return replace(
            rows,
            residuals=tuple(torch.cat(pair) for pair in pairs),
            features=tuple(torch.cat(pair) for pair in features),
            release=None,
        )
    assert isinstance(rows, DenseRows) and isinstance(goal, DenseRows), "blocks represent no goal"
    return DenseRows(matrix=torch.cat([rows.matrix, goal.matrix]))
