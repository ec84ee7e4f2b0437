"""Boundary and k-means: images of a pool that lie between clusters of features, and a random share of the others."""

from typing import ClassVar

import torch
from torch import Tensor

from advcore.errors import check_at_least, check_within, require
from advcore.rng import Stream
from advcore.rows import DenseRows, Rows
from advcore.settings import setting, settings
from advcore.shares import floor_share
from advcore.solvers.base import check_problem, refuse_target, weigh_equally
from advcore.types import Selection

_AT_ONCE = 65_536  # rows whose distances are computed together, in float64
_MOST_STEPS = 100  # of Lloyd's algorithm


@settings
class BoundaryKMeans:
    """Examples whose two nearest k-means centres, in feature space, are about equally far; the rest at random.

    Parameters
    ----------
    clusters : number of centres, 2 to 10,000; the paper takes the number of classes.
    boundary : share of the picks that lie nearest to a boundary between two clusters, in [0, 1].

    Each pick weighs N / k. Partition `whole` is the paper's; labels are not read, so that they may be a teacher's.
    Centres begin by k-means++ (Arthur and Vassilvitskii 2007), with random numbers of the examples, and move by Lloyd's
    algorithm, at most 100 times; sums are float64. Cost O(N D clusters) a move.
    Reference: Ghosh et al. 2025 (arXiv 2501.10466), LCS-KM, and their code, github TrustMLRG/EfficientSSAT,
    datasets.py: 10 clusters, and 60 % of the picks by the difference of the two least distances. Differs: features are
    those of the model that trains, as it is at the selection, where theirs are of one trained before on real data.
    """

    clusters: int = setting(default=10, unit="clusters")
    boundary: float = setting(default=0.6, unit="share")
    reads: ClassVar[str | None] = "features"

    def __post_init__(self) -> None:
        require(
            check_at_least("clusters", self.clusters, 2, most=10_000),
            check_within("boundary", self.boundary, 0, 1),
        )

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        check_problem(rows, k)
        refuse_target(self, target)
        points = rows.matrix if isinstance(rows, DenseRows) else rows.dense()
        centres = find_centres(points, self.clusters, generator)
        order = torch.argsort(measure_gaps(points, centres), stable=True)
        near = floor_share(self.boundary, k)
        others = generator.child("others").permutation()
        is_open = torch.ones(len(points), dtype=torch.bool, device=points.device)
        is_open[order[:near]] = False
        picks = torch.cat([order[:near], others[is_open[others]][: k - near]])
        return weigh_equally(picks, len(points))


def find_centres(points: Tensor, clusters: int, generator: Stream) -> Tensor:
    """Return at most `clusters` k-means centres (c, D) float64 of points (N, D); fewer where fewer points differ."""
    centres = _draw_centres(points, clusters, generator)
    for _ in range(_MOST_STEPS):
        sums = torch.zeros_like(centres)
        counts = centres.new_zeros(len(centres))
        for piece in points.split(_AT_ONCE):
            nearest = torch.cdist(piece.double(), centres).argmin(1)
            sums.index_add_(0, nearest, piece.double())
            counts += torch.bincount(nearest, minlength=len(centres))
        moved = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _draw_centres(points: Tensor, clusters: int, generator: Stream) -> Tensor:
    """Draw the first centres: each point with a chance in proportion to its squared distance to those drawn before.

    The point with the least -log(u) / distance^2 is drawn, u its random number, so that the points' order is nothing.
    """
    distances = torch.ones(len(points), dtype=torch.float64, device=points.device)
    drawn: list[Tensor] = []
    while len(drawn) < clusters and bool(distances.any()):
        uniform = generator.child("centre", len(drawn)).uniform((len(points),)).double().clamp_min(2.0**-25)
        centre = points[(-uniform.log() / distances).argmin()].double()[None]
        drawn.append(centre)
        to_centre = torch.cat([torch.cdist(piece.double(), centre)[:, 0] for piece in points.split(_AT_ONCE)]).square()
        distances = to_centre if len(drawn) == 1 else torch.minimum(distances, to_centre)
    return torch.cat(drawn)


def measure_gaps(points: Tensor, centres: Tensor) -> Tensor:
    """Return how much farther each point's second nearest centre is than its nearest, (N,) float64; 0 for one."""
    if len(centres) < 2:
        return torch.zeros(len(points), dtype=torch.float64, device=points.device)
    gaps = []
    for piece in points.split(_AT_ONCE):
        nearest, second = torch.cdist(piece.double(), centres).topk(2, largest=False).values.T
        gaps.append(second - nearest)
    return torch.cat(gaps)
