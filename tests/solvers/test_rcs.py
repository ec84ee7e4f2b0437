"""RCS against all subsets of few rows, and against gains computed from rows written out, one at a time."""

import itertools
import math

import pytest
import torch

from advcore.errors import ConfigError, DataError
from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows
from advcore.solvers import rcs
from advcore.solvers.rcs import RCS


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stream(n):
    return Stream(seed=0, purpose="solver").at(torch.arange(n))


def evaluate_subset(matrix, target, picks, curvature, k):
    """F(S) = <Q, G> - curvature (n / k) ||G||^2 / 2, written out."""
    combined = matrix[list(picks)].sum(0)
    return float(target @ combined - curvature * len(matrix) / k / 2 * combined @ combined)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 3, 6])
def test_without_curvature_it_is_the_best_of_all_subsets(k, seed):
    matrix = draw(8, 4, seed=seed).double()
    target = draw(4, seed=seed + 50).double()
    best = max(
        itertools.combinations(range(8), k), key=lambda picks: evaluate_subset(matrix, target, picks, curvature=0, k=k)
    )
    selection = RCS(curvature=0)(DenseRows(matrix=matrix), k, target=target, generator=stream(8))
    assert sorted(selection.indices.tolist()) == list(best)
    assert selection.weights.tolist() == [8 / k] * k


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("curvature", [0.0, 0.3, 1.0])
def test_each_pick_adds_most_to_what_is_picked_before_it(curvature, seed):
    residuals, features = draw(2, 8, 3, seed=seed), draw(2, 8, 5, seed=seed + 1)
    rows = FactoredRows(residuals=tuple(residuals), features=tuple(features))
    matrix = rows.dense()
    selection = RCS(curvature=curvature)(rows, 5, generator=stream(8))
    picks = []
    total = matrix.sum(0)
    for pick, gain in zip(selection.indices.tolist(), selection.info["gains"], strict=True):
        before = evaluate_subset(matrix, total, picks, curvature, 5)
        gains = {
            i: evaluate_subset(matrix, total, [*picks, i], curvature, 5) - before for i in range(8) if i not in picks
        }
        assert pick == max(gains, key=gains.get) and gain == pytest.approx(gains[pick], abs=1e-9)
        picks.append(pick)


@pytest.mark.parametrize("seed", range(8))
def test_greedy_is_near_the_best_of_all_subsets_where_gains_only_fall(seed):
    """Rows whose products are all positive make F submodular; while gains stay above 0, the bound is 1 - 1/e."""
    matrix = draw(8, 6, seed=seed).abs().double()
    selection = RCS(curvature=0.4)(DenseRows(matrix=matrix), 3, generator=stream(8))
    assert min(selection.info["gains"]) > 0
    value = sum(selection.info["gains"])
    total = matrix.sum(0)
    subsets = itertools.combinations(range(8), 3)
    best = max(evaluate_subset(matrix, total, picks, 0.4, 3) for picks in subsets)
    assert (1 - 1 / math.e) * best <= value <= best + 1e-9


def test_with_curvature_a_copy_gains_less():
    """Two equal rows agree most with the target; the second of them gives way to one that is new."""
    matrix = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, -1.0]])
    flat, curved = (RCS(curvature=c)(DenseRows(matrix=matrix), 2, generator=stream(4)) for c in (0.0, 1.0))
    assert flat.indices.tolist() == [0, 1]
    assert curved.indices.tolist() == [0, 2]


@pytest.mark.parametrize("curvature", [0.0, 0.5])
def test_blocks_are_picked_by_their_means(curvature):
    members = FactoredRows(residuals=(draw(12, 3),), features=(draw(12, 4, seed=1),))
    blocks = members.block_means(list(torch.arange(12).split(3)))
    dense = DenseRows(matrix=torch.stack([block.mean(0) for block in members.dense().split(3)]))
    one, other = (RCS(curvature=curvature)(rows, 2, generator=stream(4)) for rows in (blocks, dense))
    assert torch.equal(one.indices, other.indices)
    assert one.info["gains"] == pytest.approx(other.info["gains"])


@pytest.mark.parametrize("seed", range(3))
def test_many_rows_whose_products_are_not_held_are_picked_alike(seed, monkeypatch):
    rows = FactoredRows(residuals=(draw(40, 3, seed=seed),), features=(draw(40, 4, seed=seed + 9),))
    held = RCS()(rows, 15, generator=stream(40))
    monkeypatch.setattr(rcs, "EXACT_UP_TO", 10)
    free = RCS()(rows, 15, generator=stream(40))
    assert torch.equal(held.indices, free.indices)
    assert held.info["gains"] == pytest.approx(free.info["gains"])
    assert RCS().memory(11, 3) == {"matrix": 0, "solver": 0} and RCS().memory(10, 3)["matrix"] == 800


@pytest.mark.parametrize("curvature", [-0.1, 1.1, float("nan")])
def test_a_curvature_out_of_range_is_a_line(curvature):
    with pytest.raises(ConfigError, match="curvature must be"):
        RCS(curvature=curvature)


def test_a_target_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match="target must be finite"):
        RCS()(DenseRows(matrix=draw(4, 2)), 2, target=torch.tensor([1.0, float("nan")]), generator=stream(4))
