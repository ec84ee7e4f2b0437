"""CRAIG: the rows that, as medoids, are nearest to all rows (facility location)."""

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from advcore.device import batches
from advcore.errors import must, one_of, require
from advcore.pairs import distance_matrix, distances_between, matrix_bytes, matrix_dtype, natural_unit, ready
from advcore.rng import Stream
from advcore.rows import ALL, Rows, cut
from advcore.solvers.base import MATRIX, check_problem, matrix_is_held, no_target
from advcore.solvers.location import Located, Sample, locate, locate_tiled, locate_with_submodlib
from advcore.types import Selection, settings

DISTANCES = ("euclidean", "squared")
BACKENDS = ("advcore", "submodlib")
_BATCH, _COLUMNS = 64, 512  # rows of similarities made together where no matrix is held; columns at a time


@settings
class Craig:
    """Greedy CRAIG on exact Euclidean distances between gradient rows; weights are cluster sizes and sum to N.

    Parameters
    ----------
    distance : "euclidean", or "squared" as the published adversarial code has it.
    epsilon : null for exact greedy, at least 1 - 1/e of the best objective; a number in (0, 1) for stochastic greedy:
        each pick is the best of (N / k) ln(1 / epsilon) rows drawn anew, and the expected objective is at least
        1 - 1/e - epsilon of the best (Mirzasoleiman et al. 2015, theorem 1).
    matrix : "held" keeps a problem's distance matrix, "free" makes its rows when they are looked at, "auto" holds it up
        to 4 GB (about 31,000 rows). Both are exact.
    backend : "advcore", or "submodlib" as a twin (LazyGreedy; needs the matrix and the extra `submodular`).

    Similarity is max(distance) - distance. Returns fewer than k when no further pick gains anything
    (`info["stopped"] == "no gain"`: all rows are duplicates of picks). `info`: `gains`, `evaluations`.
    Precision: distances are float64 products, stored in float32 for more than 2048 float32 rows; gains are summed in
    float64. Cost O(N^2 (C + D)) time and 4 N^2 bytes (8 N^2 up to 2048) for the distances, then O(N^2 log k).
    Reference: Mirzasoleiman et al. 2020, eq. 14; Dolatabadi et al. 2022, section 3.2. Differs: distances are not
    squared, rows are the full head gradient, and indices stay aligned with the data.
    """

    distance: str = "euclidean"
    epsilon: float | None = None
    matrix: str = "auto"
    backend: str = "advcore"
    reads: ClassVar[str | None] = "last_layer"
    has_target: ClassVar[bool] = False

    def __post_init__(self):
        epsilon, twin = self.epsilon, self.backend == "submodlib"
        require(
            one_of("distance", self.distance, DISTANCES),
            one_of("matrix", self.matrix, MATRIX),
            one_of("backend", self.backend, BACKENDS),
            must("epsilon", "in (0, 1)", epsilon, "null is exact greedy")
            if epsilon is not None and not 0 < epsilon < 1
            else None,
            must("matrix", "'held' or 'auto' for submodlib", self.matrix) if twin and self.matrix == "free" else None,
            must("epsilon", "null for submodlib", epsilon) if twin and epsilon is not None else None,
        )

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        norms = check_problem(rows, k)
        no_target(self, target)
        unit = natural_unit(norms.sqrt()) ** (2 if self.distance == "squared" else 1)
        found = self._locate(rows, k, unit, self._sample(len(rows), k, generator))
        return Selection(
            indices=torch.tensor(found.picks, device=rows.device),
            weights=torch.from_numpy(found.cluster_sizes()).to(rows.device),
            info={
                "stopped": "budget" if len(found.picks) == k else "no gain",
                "gains": [gain * unit for gain in found.gains],
                "evaluations": found.evaluations,
            },
        )

    def memory(self, n: int, k: int) -> dict[str, int]:
        """Bytes beside n float32 rows: the matrix, and what is looked at together."""
        held = self.backend == "submodlib" or matrix_is_held(self.matrix, n)
        return {"matrix": matrix_bytes(n) if held else 0, "solver": 8 * _BATCH * n * (1 if held else 4)}

    def _locate(self, rows: Rows, k: int, unit: float, sample: Sample | None) -> Located:
        """Distances count in `unit`s, a power of two that makes them fit float32 and loses no digit."""
        squared = self.distance == "squared"
        if self.backend != "submodlib" and not matrix_is_held(self.matrix, len(rows)):
            return _without_matrix(rows, k, squared, unit, sample)
        similarity = distance_matrix(rows, matrix_dtype(rows), squared=squared, unit=unit)
        largest = similarity.max()
        similarity.neg_().add_(largest)
        if self.backend == "submodlib":
            return locate_with_submodlib(similarity.cpu().numpy(), k)
        if batches(similarity):
            central = similarity.sum(1, dtype=torch.float64)
            return locate_tiled(lambda own: similarity[own].double(), central, k, sample=sample)
        return locate(similarity.numpy(), k, sample=sample)

    def _sample(self, n: int, k: int, generator: Stream) -> Sample | None:
        if self.epsilon is None:
            return None
        size = math.ceil(n / k * math.log(1 / self.epsilon))

        def draw(step: int, rows: np.ndarray) -> np.ndarray:
            keys = generator.child("sample", step).uniform((n,)).cpu().numpy()[rows]
            return np.sort(rows[np.argsort(keys, kind="stable")[:size]])

        return draw


def _without_matrix(rows: Rows, k: int, squared: bool, unit: float, sample: Sample | None) -> Located:
    """Two passes over all pairs, kept nowhere (the largest distance, each row's sum); then tiles of them."""
    rows = ready(rows)
    n, between = len(rows), distances_between(rows, squared=squared)

    def distances(own: Tensor) -> Tensor:
        made = torch.cat([between(rows.gram(own, others), own, others) for others in cut(ALL, n, _COLUMNS)], 1)
        made[torch.arange(len(own), device=own.device), own] = 0
        return made.div_(unit)

    largest, sums = 0.0, []
    for own in cut(torch.arange(n, device=rows.device), n, _BATCH):
        made = distances(own)
        largest, sums = max(largest, float(made.max())), [*sums, made.sum(1)]
    central = n * largest - torch.cat(sums)
    return locate_tiled(lambda own: largest - distances(own), central, k, batch=_BATCH, sample=sample)
