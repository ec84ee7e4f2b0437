"""Random selection: uniform, seeded, and redrawn or not as asked."""

import pytest
import torch

from advcore.rng import Stream
from advcore.rows import DenseRows
from advcore.solvers.uniform import Random


def solve(n, k, *, seed=0, epoch=0, **changes):
    generator = Stream(seed=seed, purpose="solver", epoch=epoch).at(torch.arange(n))
    return Random(**changes)(DenseRows(matrix=torch.zeros(n, 0)), k, generator=generator)


def picks(n, k, **changes):
    return tuple(solve(n, k, **changes).indices.tolist())


def test_redrawn_at_every_epoch_by_default():
    assert len({picks(100, 20, epoch=epoch) for epoch in range(30)}) == 30


def test_redraw_false_is_the_same_at_every_epoch_but_not_for_every_seed():
    assert len({picks(100, 20, epoch=epoch, redraw=False) for epoch in range(30)}) == 1
    assert len({picks(100, 20, seed=seed, redraw=False) for seed in range(30)}) == 30


def test_each_row_is_as_likely_as_any_other():
    drawn = torch.tensor([picks(20, 5, epoch=epoch) for epoch in range(1000)])
    counts = torch.bincount(drawn.flatten(), minlength=20)
    assert (counts - 250).abs().max() < 4 * (1000 * 0.25 * 0.75) ** 0.5


def test_each_pair_is_as_likely_as_any_other():
    pairs = [picks(5, 2, epoch=epoch) for epoch in range(1000)]
    assert len(set(pairs)) == 10 and max(map(pairs.count, set(pairs))) < 100 + 4 * 90**0.5


def test_all_of_them_is_all_of_them():
    assert picks(9, 9) == tuple(range(9))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_weights_are_n_over_k(k):
    assert solve(7, k).weights.tolist() == pytest.approx([7 / k] * k)


def test_the_choice_does_not_read_the_rows():
    generator = Stream(seed=0, purpose="solver").at(torch.arange(30))
    other = Random()(DenseRows(matrix=torch.arange(60.0).reshape(30, 2)), 8, generator=generator)
    assert tuple(other.indices.tolist()) == picks(30, 8)
