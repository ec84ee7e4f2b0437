"""EasyCore keeps the lowest scores."""

import pytest
import torch
from hypothesis import given, settings, strategies

from advcore.rng import Stream
from advcore.rows import DenseRows
from advcore.solvers.easycore import EasyCore


def solve(scores, k):
    rows = DenseRows(matrix=torch.tensor(scores, dtype=torch.float32)[:, None])
    return EasyCore()(rows, k, generator=Stream(seed=0, purpose="solver").at(torch.arange(len(scores))))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(scores=strategies.lists(strategies.integers(0, 6), min_size=1, max_size=20), share=strategies.floats(0, 1))
def test_the_k_lowest_scores_with_ties_to_the_lower_index(scores, share):
    k = max(1, round(share * len(scores)))
    found = solve(scores, k)
    assert found.indices.tolist() == sorted(range(len(scores)), key=lambda i: (scores[i], i))[:k]
    assert found.weights.tolist() == pytest.approx([len(scores) / k] * k)


def test_weights_sum_to_n():
    assert float(solve([3.0, 0.5, 2.0, 0.25, 9.0, 1.0, 4.0], 3).weights.sum()) == pytest.approx(7)
