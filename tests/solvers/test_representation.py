"""Rows of one set that represent those of another: against brute force, and what weights and rounds are."""

import itertools

import pytest
import torch

from advcore.rows import DenseRows, FactoredRows
from advcore.solvers import Craig
from advcore.testing.examples import draw_stream


def draw(n, seed, width=3):
    return DenseRows(matrix=torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def cover(rows, goal, picks, squared=False):
    distances = torch.cdist(rows.matrix, goal.matrix)
    distances = distances.square() if squared else distances
    return float((distances.max() - distances[list(picks)]).max(0).values.sum())


def pick(rows, goal, k, **settings):
    return Craig(**settings).represent(rows, k, goal=goal, generator=draw_stream(range(len(rows))))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("settings", [{}, {"matrix": "free"}, {"distance": "squared"}])
def test_each_pick_gains_most_and_all_are_near_the_best_there_are(seed, settings):
    rows, goal = draw(9, seed), draw(12, seed + 100)
    squared = settings.get("distance") == "squared"
    found = pick(rows, goal, 3, **settings)
    order = found.indices.tolist()
    for step in range(3):
        values = {i: cover(rows, goal, [*order[:step], i], squared) for i in range(9) if i not in order[:step]}
        assert values[order[step]] == pytest.approx(max(values.values()), rel=1e-6)
    best = max(cover(rows, goal, picks, squared) for picks in itertools.combinations(range(9), 3))
    assert cover(rows, goal, order, squared) >= (1 - 1 / torch.e) * best
    nearest = torch.cdist(rows.matrix[order], goal.matrix).argmin(0)
    expected = torch.bincount(nearest, minlength=3).double() * 9 / 12
    assert torch.allclose(found.weights, expected) and float(found.weights.sum()) == pytest.approx(9)


def test_once_everything_is_represented_it_begins_again_among_the_others():
    rows, goal = draw(20, 0), draw(4, 1)
    found = pick(rows, goal, 15)
    assert len(found.indices.unique()) == 15 and found.info["rounds"] > 3 and found.info["stopped"] == "budget"
    assert bool((found.weights > 0).all()) and float(found.weights.sum()) == pytest.approx(20)
    first = torch.cdist(rows.matrix, goal.matrix).argmin(0).unique()
    assert set(first.tolist()) <= set(found.indices[:4].tolist())


def test_equal_rows_and_a_goal_among_the_rows():
    same = DenseRows(matrix=torch.ones(5, 3, dtype=torch.float64))
    assert len(pick(same, same, 3).indices) == 3
    rows = draw(8, 3)
    goal = DenseRows(matrix=rows.matrix[[2, 5]])
    assert set(pick(rows, goal, 2).indices.tolist()) == {2, 5}


def test_factored_rows_give_what_the_same_rows_written_out_give():
    generator = torch.Generator().manual_seed(0)
    rows, goal = (
        FactoredRows(
            residuals=(torch.randn(n, 3, generator=generator),), features=(torch.randn(n, 4, generator=generator),)
        )
        for n in (30, 20)
    )
    one = pick(rows, goal, 7)
    other = pick(DenseRows(matrix=rows.dense()), DenseRows(matrix=goal.dense()), 7, matrix="free")
    assert torch.equal(one.indices, other.indices) and torch.allclose(one.weights, other.weights)
