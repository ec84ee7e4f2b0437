"""InfoBatch on losses by hand, and against its expectation."""

import math

import pytest
import torch
from seeds import side_by_side

from advcore.errors import ConfigError
from advcore.minibatch.epoch_subset import EpochSubset
from advcore.minibatch.infobatch import InfoBatch
from advcore.rng import Stream

LOSSES = torch.tensor([0.1, 4.0, float("nan"), 0.5, 0.9, 2.0])  # mean 1.5 of those that are known
BELOW = torch.tensor([True, False, False, True, True, False])


def stream(epoch=0, size=6):
    return Stream(seed=0, purpose="minibatch", epoch=epoch).at(torch.arange(size))


@pytest.mark.parametrize("r", [0.25, 0.5, 0.9])
def test_only_examples_below_the_mean_are_left_out_and_those_that_stay_make_up_for_them(r):
    for epoch in range(20):
        factors = InfoBatch(r=r).weigh(LOSSES, stream(epoch))
        is_out = BELOW & (stream(epoch).uniform((6, 1))[:, 0] < r)
        expected = [0 if out else 1 / (1 - r) if below else 1 for out, below in zip(is_out, BELOW, strict=True)]
        assert factors.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("r", [0.25, 0.5, 0.9])
def test_a_weighted_sum_over_what_stays_is_unbiased(r):
    epochs = 4000
    numbers = side_by_side([stream(epoch) for epoch in range(epochs)], 6).uniform((epochs * 6, 1)).reshape(epochs, 6)
    for epoch in range(20):
        assert torch.equal(numbers[epoch], stream(epoch).uniform((6, 1))[:, 0])
    factors = torch.where(BELOW & (numbers < r), 0.0, torch.where(BELOW, 1 / (1 - r), 1.0))
    means = factors.mean(0)
    assert float((means - 1).abs().max()) < 4 * math.sqrt(r / (1 - r) / epochs)
    assert torch.allclose(factors[7], InfoBatch(r=r).weigh(LOSSES, stream(7)))


@pytest.mark.parametrize("losses", [[float("nan")] * 3, [1.0, 1.0, 1.0], [2.0]], ids=["never trained", "equal", "one"])
def test_where_nothing_is_below_the_mean_all_stay(losses):
    assert InfoBatch().weigh(torch.tensor(losses), stream(size=len(losses))).tolist() == [1] * len(losses)


def test_what_an_example_draws_does_not_depend_on_its_place():
    order = torch.tensor([5, 3, 0, 1, 4, 2])
    for epoch in range(10):
        shuffled = InfoBatch().weigh(LOSSES[order], stream(epoch).take(order))
        assert torch.equal(InfoBatch().weigh(LOSSES, stream(epoch))[order], shuffled)


@pytest.mark.parametrize(
    "whole, epochs, expected", [(0.125, 8, 7), (0.125, 30, 26), (0.125, 4, 3), (0, 5, 5), (1, 5, 0), (0.1, 10, 9)]
)
def test_the_last_epochs_are_whole_and_their_share_is_rounded_up(whole, epochs, expected):
    rule = InfoBatch(whole=whole)
    assert [rule.leaves_out(epoch, epochs) for epoch in range(epochs)] == [i < expected for i in range(epochs)]


@pytest.mark.parametrize("changes", [{"r": -0.1}, {"r": 0.91}, {"whole": -1}, {"whole": 1.5}, {"whole": float("nan")}])
def test_a_setting_out_of_range_is_one_line_that_names_it(changes):
    with pytest.raises(ConfigError) as caught:
        InfoBatch(**changes)
    assert len(caught.value.lines) == 1 and next(iter(changes)) in caught.value.lines[0]


@pytest.mark.parametrize(
    "weights, problem",
    [
        (torch.tensor([1.0, -1.0]), "finite, and at least 0, got '-1 to 1'"),
        (torch.tensor([1.0, float("inf")]), "finite"),
        (torch.ones(3), "2"),
    ],
)
def test_a_rule_from_elsewhere_that_weighs_wrongly_is_a_line(weights, problem):
    class Wrong(EpochSubset):
        def weigh(self, losses, generator):
            return weights

    with pytest.raises(ConfigError, match=f"the weights of Wrong.*{problem}"):
        Wrong().choose_weights(torch.ones(2), stream(size=2))
