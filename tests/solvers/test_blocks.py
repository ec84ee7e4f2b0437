"""Problems of many rows in blocks: against the exact solvers, the error that is made up for, and what weights are."""

import math
from dataclasses import replace

import pytest
import torch

from advcore.errors import ConfigError
from advcore.rows import DenseRows, FactoredRows
from advcore.solvers import Craig, GradMatch
from advcore.solvers.blocks import cut_into_blocks
from advcore.testing import SolverContract
from advcore.testing.examples import draw_stream

SOLVERS = [GradMatch(), Craig()]


@pytest.mark.parametrize("kind", SOLVERS)
class TestInBlocks(SolverContract):
    @pytest.fixture
    def solver(self, kind):
        return replace(kind, block_size=64)


def draw_rows(n, seed=0, classes=4, features=8):
    """Rows in clusters, as those of one class are."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(6, (n,), generator=generator)
    centres = torch.randn(6, features, generator=generator)
    h = (centres[which] + 0.5 * torch.randn(n, features, generator=generator)).relu()
    residual = (h @ torch.randn(features, classes, generator=generator)).softmax(1)
    residual[:, 0] -= 1
    return FactoredRows(residuals=(residual,), features=(h,))


def measure_error(rows, selection, target=None):
    target = rows.total() if target is None else target
    return float((rows.combine(selection.indices, selection.weights) - target).norm() / target.norm())


def test_blocks_hold_each_row_once_and_picks_in_proportion():
    members = torch.arange(5, 255)
    blocks = cut_into_blocks(members, 41, size=100, stream=draw_stream(range(300)))
    assert torch.equal(torch.cat([block.members for block in blocks]).sort().values, members)
    assert [(len(block.members), block.k) for block in blocks] == [(100, 17), (100, 16), (50, 8)]
    assert all(torch.equal(block.stream.examples, block.members) for block in blocks)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", SOLVERS)
def test_few_rows_are_solved_as_a_whole_and_more_nearly_as_well(kind, seed):
    rows = draw_rows(400, seed)
    stream = draw_stream(range(400))
    exact = kind(rows, 40, generator=stream)
    same = replace(kind, block_size=400)(rows, 40, generator=stream)
    assert torch.equal(exact.indices, same.indices) and torch.equal(exact.weights, same.weights)
    cut = replace(kind, block_size=200)(rows, 40, generator=stream)
    assert len(cut.indices) == 40 and cut.info["blocks"] == [2, 1]
    order = stream.permutation()[:40]
    random = float((rows.combine(order, torch.full((40,), 10.0)) - rows.total()).norm() / rows.total().norm())
    assert measure_error(rows, cut) < max(1.6 * measure_error(rows, exact), random)


def test_later_blocks_make_up_for_what_earlier_ones_left_over():
    rows = draw_rows(1000)
    stream = draw_stream(range(1000))
    target = 1.7 * rows.total(torch.arange(300))
    found = GradMatch(block_size=100, fill="none")(rows, 250, target=target, generator=stream)
    assert found.info["blocks"] == [10, 5]
    assert found.info["residual"] == pytest.approx(measure_error(rows, found, target), rel=1e-9)
    assert found.info["residual"] < 0.02


def test_medoids_of_medoids_stand_for_all_rows():
    rows = draw_rows(500)
    found = Craig(block_size=100)(rows, 60, generator=draw_stream(range(500)))
    assert float(found.weights.sum()) == pytest.approx(500) and bool((found.weights >= 1).all())
    assert found.info["blocks"] == [5, 2]

    def cover(picks):
        dense = rows.dense()
        return float(torch.cdist(dense, dense[picks]).min(1).values.sum())

    exact = Craig()(rows, 60, generator=draw_stream(range(500)))
    assert cover(found.indices) < 1.2 * cover(exact.indices)


def test_what_it_takes_is_counted_by_blocks():
    for kind in SOLVERS:
        whole, cut = kind.memory(20_000, 2000), replace(kind, block_size=2000).memory(20_000, 2000)
        assert cut["matrix"] == kind.memory(2000, 2000)["matrix"] <= whole["matrix"] / 50
        shape = type("Shape", (), {"product": 522, "size": 5120})()
        assert replace(kind, block_size=2000).operations(20_000, 2000, shape) < kind.operations(20_000, 2000, shape) / 4
        assert math.isclose(
            replace(kind, block_size=20_000).operations(20_000, 2000, shape), kind.operations(20_000, 2000, shape)
        )


@pytest.mark.parametrize("kind", [GradMatch, Craig])
def test_blocks_have_at_least_64_rows(kind):
    with pytest.raises(ConfigError, match="^block_size must be a whole number of at least 64, got 63"):
        kind(block_size=63)


def test_rows_written_out_are_cut_too():
    rows = DenseRows(matrix=torch.randn(200, 5, generator=torch.Generator().manual_seed(0)))
    assert len(GradMatch(block_size=64)(rows, 20, generator=draw_stream(range(200))).indices) == 20
