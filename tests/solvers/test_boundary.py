"""Boundary and k-means: its contract, the centres against scikit-learn, and what is picked."""

import pytest
import torch
from sklearn.cluster import KMeans

from advcore.rows import DenseRows
from advcore.solvers import SOLVERS
from advcore.solvers.boundary import find_centres, measure_gaps
from advcore.testing import SolverContract
from advcore.testing.examples import draw_stream

BoundaryKMeans = SOLVERS["boundary_kmeans"]


class TestBoundaryKMeans(SolverContract):
    @pytest.fixture
    def solver(self):
        return BoundaryKMeans(clusters=3)


def clusters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    return torch.cat([centre + torch.randn(40, 2, generator=generator) for centre in centres])


def test_centres_are_those_of_scikit_learn_where_clusters_are_apart():
    points = clusters()
    ours = find_centres(points, 3, draw_stream(range(len(points))))
    theirs = torch.from_numpy(KMeans(3, n_init=1, random_state=0).fit(points.double().numpy()).cluster_centers_)
    assert torch.allclose(ours[ours[:, 0].argsort()], theirs[theirs[:, 0].argsort()].double(), atol=1e-6)


def test_gaps_are_differences_of_the_two_least_distances():
    points, centres = clusters()[:7], clusters(1)[:4].double()
    distances = sorted((points[0].double() - centre).norm().item() for centre in centres)
    assert float(measure_gaps(points, centres)[0]) == pytest.approx(distances[1] - distances[0])
    assert measure_gaps(points, centres[:1]).tolist() == [0.0] * 7


def test_the_share_of_the_boundary_lies_nearest_to_it_and_the_rest_is_random():
    points = clusters()
    stream = draw_stream(range(len(points)))
    picks = BoundaryKMeans(clusters=3, boundary=0.6)(DenseRows(matrix=points), 20, generator=stream).indices
    gaps = measure_gaps(points, find_centres(points, 3, stream))
    assert set(picks[:12].tolist()) == set(gaps.argsort()[:12].tolist()) and len(picks.unique()) == 20
    other = draw_stream(range(len(points))).at_epoch(1)
    again = BoundaryKMeans(clusters=3, boundary=0.6)(DenseRows(matrix=points), 20, generator=other).indices
    assert set(again[:12].tolist()) == set(picks[:12].tolist()) and set(again.tolist()) != set(picks.tolist())
