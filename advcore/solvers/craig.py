"""CRAIG: the rows that, as medoids, are nearest to all rows (facility location)."""

import heapq
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from advcore.errors import one_of, require
from advcore.rng import Stream
from advcore.rows import Rows, squared_distances
from advcore.solvers.base import check_problem
from advcore.types import Selection, settings

DISTANCES = ("euclidean", "squared")


def facility_location(similarity: np.ndarray, k: int) -> tuple[list[int], list[float], int]:
    """Greedily maximise sum_i max_{j in S} s_ij over S of at most k.

    Parameters
    ----------
    similarity : (N, N) float64, symmetric, >= 0.
    k : how many to pick at most.

    Returns the picks in order, each one's gain, and the number of gain evaluations. Each gain is the best one
    there is, to 9 digits. Ties, which are common (two rows that are each other's nearest gain the same), go to the
    row most similar to all, whatever the order of the rows, then to the lower index. Stops early once no pick
    gains anything; the first pick is always made.
    Cost O(N) an evaluation, N of them to begin with and few a pick (gains only fall, so old ones are bounds);
    at worst N a pick. O(N) memory beside the input.
    Reference: Minoux 1978 (lazy greedy); Mirzasoleiman et al. 2020, section 3, algorithm 1.
    """
    first = similarity.sum(1)
    floor = 1e-14 * float(first.max())
    central = [_rounded(gain) for gain in first.tolist()]
    heap = [(-gain, -gain, i) for i, gain in enumerate(central)]
    heapq.heapify(heap)
    covered = np.zeros(len(similarity))
    picks, gains, evaluations = [], [], len(similarity)
    while len(picks) < k and heap:
        i = heapq.heappop(heap)[-1]
        gain = float(np.maximum(similarity[i] - covered, 0).sum())
        evaluations += 1
        bound = (-_rounded(gain), -central[i], i)
        if heap and bound > heap[0]:
            heapq.heappush(heap, bound)
            continue
        if picks and gain <= floor:
            break
        picks.append(i)
        gains.append(gain)
        np.maximum(covered, similarity[i], out=covered)
    return picks, gains, evaluations


def _rounded(gain: float) -> float:
    """To 9 digits: sums that differ only by the order of their terms are ties."""
    return float(f"{gain:.8e}")


def cluster_sizes(distance: np.ndarray, picks: list[int]) -> np.ndarray:
    """(K,) how many rows have each pick as their nearest; ties go to the earlier pick, a pick is its own."""
    nearest = distance[:, picks].argmin(1)
    nearest[picks] = np.arange(len(picks))
    return np.bincount(nearest, minlength=len(picks)).astype(np.float64)


@settings
class Craig:
    """Greedy CRAIG on exact Euclidean distances between gradient rows; weights are cluster sizes and sum to N.

    Parameters
    ----------
    distance : "euclidean", or "squared" as the published adversarial code has it.

    Similarity is max(distance) - distance. Returns fewer than k when no further pick gains anything
    (`info["stopped"] == "no gain"`: all rows are duplicates of picks). Float64 on the CPU.
    Cost O(N^2 (C + D)) time and O(N^2) memory for the distances, then lazy greedy.
    Reference: Mirzasoleiman et al. 2020, eq. 14; Dolatabadi et al. 2022, section 3.2. Differs: distances are not
    squared, rows are the full head gradient, and indices stay aligned with the data.
    """

    distance: str = "euclidean"
    reads: ClassVar[str | None] = "last_layer"

    def __post_init__(self):
        require(one_of("distance", self.distance, DISTANCES))

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        check_problem(rows, k)
        squared = squared_distances(rows)
        distance = (squared if self.distance == "squared" else squared.sqrt_()).cpu().numpy()
        picks, gains, evaluations = facility_location(distance.max() - distance, k)
        return Selection(
            indices=torch.tensor(picks, device=rows.device),
            weights=torch.from_numpy(cluster_sizes(distance, picks)).to(rows.device),
            info={
                "stopped": "budget" if len(picks) == k else "no gain",
                "gains": gains,
                "evaluations": evaluations,
            },
        )
