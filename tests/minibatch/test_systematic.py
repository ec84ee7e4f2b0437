"""Systematic draws: probabilities known beforehand, against a search and against every start of the line."""

import itertools
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advcore.minibatch.base import draw_examples
from advcore.minibatch.systematic import compute_inclusion, draw_systematically
from advcore.rng import Stream

PREFERENCES = [4.0, 1.0, 2.0, 0.5, 20.0, 1.0]


def search(preferences: list[float], k: int) -> list[float]:
    """The slow twin: the c for which sum min(1, c p) = k, by halving an interval."""
    low, high = 0.0, k / min(preferences)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(min(1.0, middle * p) for p in preferences) < k:
            low = middle
        else:
            high = middle
    return [min(1.0, high * p) for p in preferences]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(preferences=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12), data=st.data())
def test_inclusion_is_what_a_search_finds(preferences, data):
    k = data.draw(st.integers(1, len(preferences)))
    inclusion = compute_inclusion(torch.tensor(preferences, dtype=torch.float64), k)
    assert float(inclusion.sum()) == pytest.approx(k, rel=1e-9)
    assert inclusion.tolist() == pytest.approx(search(preferences, k), rel=1e-6)


class Line(NamedTuple):
    """A stream whose order and start are given."""

    order: Tensor
    start: float

    def child(self, *_: object) -> "Line":
        return self

    def permutation(self) -> Tensor:
        return self.order

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, self.start)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_every_example_is_drawn_as_often_as_its_probability_says_whatever_the_order(k):
    """All starts on a grid of 1/400, for some orders: within a cell of the grid at either end."""
    inclusion = compute_inclusion(torch.tensor(PREFERENCES, dtype=torch.float64), k)
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 120):
        often = torch.zeros(6)
        for i in range(400):
            positions = draw_systematically(inclusion, k, Line(torch.tensor(order), i / 400))
            assert len({*positions.tolist()}) == k and positions.tolist() == sorted(positions.tolist())
            often[positions] += 1
        assert torch.allclose(often.double() / 400, inclusion, atol=2 / 400)


@pytest.mark.parametrize("k", [1, 3])
def test_weighted_sums_are_unbiased(k):
    """The mean over all starts of weights times values is the mean of the values."""
    values = torch.tensor([1.0, 5.0, -2.0, 7.0, 0.5, 3.0])
    inclusion = compute_inclusion(torch.tensor(PREFERENCES, dtype=torch.float64), k)
    means = []
    for i in range(2000):
        positions = draw_systematically(inclusion, k, Line(torch.arange(6), i / 2000))
        means.append(float((values[positions] / inclusion[positions]).sum() / 6))
    assert sum(means) / 2000 == pytest.approx(float(values.mean()), abs=0.02)


def test_a_draw_gives_the_weights_of_its_probabilities_and_does_not_depend_on_the_place():
    stream = Stream(seed=0, purpose="minibatch").at(torch.arange(6))
    preferences = torch.tensor(PREFERENCES)
    picked = draw_examples(preferences, 3, stream, "systematic")
    inclusion = torch.tensor(search(PREFERENCES, 3))
    assert picked.weights.tolist() == pytest.approx((3 / (6 * inclusion[picked.positions])).tolist())
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    other = draw_examples(preferences[order], 3, stream.take(order), "systematic")
    assert sorted(order[other.positions].tolist()) == picked.positions.tolist()
