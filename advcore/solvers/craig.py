"""CRAIG: the rows that, as medoids, are nearest to all rows (facility location)."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from advcore.errors import check_one_of, must, require, unless
from advcore.rng import Stream
from advcore.rows import ALL, Rows, cut
from advcore.rows.pairwise import (
    choose_unit,
    distance_matrix,
    distances_between,
    matrix_bytes,
    matrix_dtype,
    use_exact_factors,
)
from advcore.runtime.device import is_faster_batched
from advcore.settings import setting, settings
from advcore.solvers.base import MATRIX, RowShape, check_problem, matrix_is_held, refuse_target
from advcore.solvers.blocks import cluster_in_blocks, count_in_blocks, find_block_problem
from advcore.solvers.location import Located, Sample, locate, locate_tiled, locate_with_submodlib
from advcore.solvers.representation import represent
from advcore.types import Selection

DISTANCES = ("euclidean", "squared")
BACKENDS = ("advcore", "submodlib")
_BATCH = 64  # rows of similarities that are computed together where no matrix is held
_COLUMNS = 512  # columns of them that are computed at a time


@settings
class Craig:
    """Greedy CRAIG on exact Euclidean distances between gradient rows; weights are cluster sizes and sum to N.

    Parameters
    ----------
    distance : "euclidean", or "squared" as the published adversarial code has it.
    epsilon : null for exact greedy, at least 1 - 1/e of the best objective; a number in (0, 1) for stochastic greedy:
        each pick is the best of (N / k) ln(1 / epsilon) newly drawn rows, and the expected objective is at least
        1 - 1/e - epsilon of the best (Mirzasoleiman et al. 2015, theorem 1).
    matrix : "held" keeps a problem's distance matrix, "free" computes its rows whenever they are needed, "auto" holds
        it up to 4 GB (about 31,000 rows). Both are exact.
    block_size : rows of a random block, at least 64, where a problem has more: its blocks are solved, and then, in
        blocks again, what they picked (`cluster_in_blocks`); null solves each problem as a whole.
    backend : "advcore", or "submodlib" as a twin (LazyGreedy; needs the matrix and the extra `submodular`).

    Similarity is max(distance) - distance. Returns fewer than k when no further pick gains anything
    (`info["stopped"] == "no gain"`: all rows are duplicates of picks). `info`: `gains`, `evaluations`.
    Precision: distances are float64 products, stored in float32 for more than 2048 float32 rows; gains are summed in
    float64. Cost O(N^2 (C + D)) time and 4 N^2 bytes (8 N^2 up to 2048) for the distances, then O(N^2 log k).
    Reference: Mirzasoleiman et al. 2020, eq. 14; Dolatabadi et al. 2022, section 3.2. Differs: distances are not
    squared, rows are the full head gradient, and indices stay aligned with the data.
    """

    distance: str = "euclidean"
    epsilon: float | None = setting(default=None, unit="unit-free")
    matrix: str = "auto"
    backend: str = "advcore"
    block_size: int | None = setting(default=None, unit="rows")
    reads: ClassVar[str | None] = "last_layer"

    def __post_init__(self) -> None:
        require(
            check_one_of("distance", self.distance, DISTANCES),
            check_one_of("matrix", self.matrix, MATRIX),
            check_one_of("backend", self.backend, BACKENDS),
            find_block_problem(self.block_size),
            unless(
                self.epsilon is None or 0 < self.epsilon < 1,
                must("epsilon", "in (0, 1)", self.epsilon, "null is exact greedy"),
            ),
            unless(
                self.backend != "submodlib" or self.matrix != "free",
                must("matrix", "'held' or 'auto' for submodlib", self.matrix),
            ),
            unless(
                self.backend != "submodlib" or self.epsilon is None,
                must("epsilon", "null for submodlib", self.epsilon),
            ),
        )

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        norms = check_problem(rows, k)
        refuse_target(self, target)
        if self._is_cut(len(rows)):
            return self._cluster_in_blocks(rows, k, generator)
        unit = choose_unit(norms.sqrt()) ** (2 if self.distance == "squared" else 1)
        located = self._locate(rows, k, unit=unit, sample=self._sample(len(rows), k, generator))
        return Selection(
            indices=torch.tensor(located.picks, device=rows.device),
            weights=torch.from_numpy(located.cluster_sizes()).to(rows.device),
            info={
                "stopped": "budget" if len(located.picks) == k else "no gain",
                "gains": [gain * unit for gain in located.gains],
                "evaluations": located.evaluations,
            },
        )

    def _is_cut(self, n: int) -> bool:
        return self.block_size is not None and n > self.block_size

    def _cluster_in_blocks(self, rows: Rows, k: int, generator: Stream) -> Selection:
        assert self.block_size is not None, "what is cut has a size"

        def cluster(rows: Rows, counts: Tensor, k: int, stream: Stream) -> Selection:
            if bool((counts == 1).all()):
                return replace(self, block_size=None)(rows, k, generator=stream)
            return self._represent(rows, k, goal=rows, generator=stream, counts=counts)

        return cluster_in_blocks(cluster, rows, k, size=self.block_size, stream=generator)

    @property
    def represent(self) -> Callable[..., Selection] | None:
        """What picks rows that are nearest to other examples' rows; None for submodlib, and for stochastic greedy.

        Weights are in proportion to how many of these each pick is nearest to, and sum to N.
        """
        if self.backend != "advcore" or self.epsilon is not None:
            return None
        return self._represent

    def _represent(
        self, rows: Rows, k: int, *, goal: Rows, generator: Stream, counts: Tensor | None = None
    ) -> Selection:
        """Pick at most k of N rows that are nearest to the rows `goal` of other examples (`representation.represent`).

        counts : how many times each row of the goal counts; None: once. `generator` is not read.
        """
        norms = check_problem(rows, k)
        check_problem(goal, 1)
        largest = torch.cat([norms, goal.squared_norms()])
        unit = choose_unit(largest.sqrt()) ** (2 if self.distance == "squared" else 1)
        squared = self.distance == "squared"
        return represent(rows, goal, k, squared=squared, unit=unit, matrix=self.matrix, counts=counts)

    def memory(self, n: int, k: int) -> dict[str, int]:
        """Return the bytes needed besides n float32 rows: by the matrix, and by its rows that are read together."""
        if self.block_size is not None:
            n = min(n, self.block_size)
        if self.backend == "submodlib" or matrix_is_held(self.matrix, n):
            return {"matrix": matrix_bytes(n), "solver": 8 * _BATCH * n}
        return {"matrix": 0, "solver": 4 * 8 * _BATCH * n}

    def operations(self, n: int, k: int, shape: RowShape) -> float:
        """Return how many multiplications it takes to pick k of n rows: all pairs once, then rows of similarities.

        How many of those are looked at depends on the data; this is what rows without structure take.
        """
        if self.block_size is not None and n > self.block_size:
            return count_in_blocks(self.operations, n, k, shape, self.block_size)
        looks = n * math.log2(k + 1)
        if self.epsilon is not None:
            looks = n * math.log(1 / self.epsilon) + k
        elif not matrix_is_held(self.matrix, n):
            looks = 1.5 * _BATCH * k
        if matrix_is_held(self.matrix, n) or self.backend == "submodlib":
            return n * n * shape.product / 2 + looks * n
        return (n + looks) * n * shape.product

    def _locate(self, rows: Rows, k: int, *, unit: float, sample: Sample | None) -> Located:
        """Pick rows by their distances in `unit`s, a power of two that makes these fit float32 and loses no digit."""
        squared = self.distance == "squared"
        if self.backend != "submodlib" and not matrix_is_held(self.matrix, len(rows)):
            return _locate_without_matrix(rows, k, squared=squared, unit=unit, sample=sample)
        similarity = distance_matrix(rows, matrix_dtype(rows), squared=squared, unit=unit)
        largest = similarity.max()
        similarity.neg_().add_(largest)
        if self.backend == "submodlib":
            return locate_with_submodlib(similarity.cpu().numpy(), k)
        if is_faster_batched(similarity):
            sums = similarity.sum(1, dtype=torch.float64)
            return locate_tiled(lambda rows: similarity[rows].double(), sums, k, sample=sample)
        return locate(similarity.numpy(), k, sample=sample)

    def _sample(self, n: int, k: int, generator: Stream) -> Sample | None:
        """Return a function that draws the rows that a step of stochastic greedy may pick; None for exact greedy."""
        if self.epsilon is None:
            return None
        size = math.ceil(n / k * math.log(1 / self.epsilon))

        def draw(step: int, rows: np.ndarray) -> np.ndarray:
            keys = generator.child("sample", step).uniform((n,)).cpu().numpy()[rows]
            return np.sort(rows[np.argsort(keys, kind="stable")[:size]])

        return draw


def _locate_without_matrix(rows: Rows, k: int, *, squared: bool, unit: float, sample: Sample | None) -> Located:
    """Pick rows without a matrix.

    A first walk over all pairs of rows, kept nowhere, learns the largest distance and each row's sum of similarities.
    Then rows of similarities are computed whenever they are looked at.
    """
    rows = use_exact_factors(rows)
    n = len(rows)
    between = distances_between(rows, squared=squared, unit=unit)

    def measure(piece: Tensor) -> Tensor:
        distances = torch.cat(
            [between(rows.gram(piece, columns), piece, columns) for columns in cut(ALL, n, _COLUMNS)], 1
        )
        distances[torch.arange(len(piece), device=piece.device), piece] = 0
        return distances

    largest = 0.0
    sums = []
    for piece in cut(torch.arange(n, device=rows.device), n, _BATCH):
        distances = measure(piece)
        largest = max(largest, float(distances.max()))
        sums.append(distances.sum(1))
    central = n * largest - torch.cat(sums)
    return locate_tiled(lambda piece: largest - measure(piece), central, k, batch=_BATCH, sample=sample)
