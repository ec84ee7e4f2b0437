"""Minibatch rules on hand-worked batches, against enumeration, and over the table."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import side_by_side
from torch import Tensor

from advcore.errors import ConfigError
from advcore.minibatch import RULES
from advcore.minibatch.base import AttackSubset, LastVisit, Picked, Seen, UpdateSubset, count, draw_examples
from advcore.minibatch.gradient_matching import GradientMatching, ResidualNorm, measure_cosines
from advcore.minibatch.loss_ranked import LossRanked
from advcore.minibatch.margin import Margin
from advcore.minibatch.uniform import RandomMix, RandomSubset
from advcore.rng import Stream
from advcore.rows import FactoredRows

ATTACKS = [name for name, kind in RULES.items() if issubclass(kind, AttackSubset)]
UPDATES = [name for name, kind in RULES.items() if issubclass(kind, UpdateSubset)]
PREFERENCES = torch.tensor([4.0, 1.0, 2.0, 0.5])


def stream(size=4, epoch=0):
    return Stream(seed=0, purpose="minibatch", epoch=epoch).at(torch.arange(size))


class Noise(NamedTuple):
    """A stream whose numbers are drawn already: (B, 1)."""

    numbers: Tensor

    @property
    def examples(self) -> Tensor:
        return torch.arange(len(self.numbers))

    def uniform(self, shape):
        return self.numbers.reshape(shape)


def every_epoch(draw: Callable[[Stream], Picked], size: int, epochs: int) -> Picked:
    """What `draw` picks of a batch of `size` in each epoch: (epochs, k) positions and weights.

    The epochs' numbers are drawn at once, and `draw` runs once, on all epochs side by side; twenty epochs are compared
    with draws of their own.
    """
    streams = side_by_side([stream(size, epoch) for epoch in range(epochs)], size)
    numbers = streams.uniform((epochs * size, 1)).reshape(epochs, size, 1)
    picked = torch.func.vmap(lambda noise: draw(Noise(noise)))(numbers)
    for epoch in range(0, epochs, epochs // 20):
        alone = draw(stream(size, epoch))
        assert torch.equal(picked.positions[epoch], alone.positions)
        assert torch.allclose(picked.weights[epoch], alone.weights, rtol=1e-6)
    return picked


def seen(size=8, classes=3, scale=1.0):
    draw = torch.Generator().manual_seed(0)
    margins, residuals, features = (scale * torch.randn(size, *w, generator=draw) for w in ((), (classes,), (5,)))
    rows = FactoredRows(residuals=(residuals,), features=(features,))
    losses = margins.abs()
    visit = LastVisit(losses=losses, changes=losses.flip(0) - losses, ages=torch.arange(size))
    return Seen(margins, residuals, torch.linspace(0.5, 1.5, size), rows, visit)


def successive(preferences, k):
    """Probability that each example is among the first k of successive draws without replacement."""
    inclusion = [0.0] * len(preferences)
    for order in itertools.permutations(range(len(preferences)), k):
        left, chance = sum(preferences), 1.0
        for i in order:
            chance, left = chance * preferences[i] / left, left - preferences[i]
        for i in order:
            inclusion[i] += chance
    return inclusion


# ---- drawing ----


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_draw_is_successive_sampling_without_replacement(k):
    draws = 3000
    picked = every_epoch(lambda numbers: draw_examples(PREFERENCES, k, numbers), 4, draws)
    often = torch.bincount(picked.positions.flatten(), minlength=4)
    for got, expected in zip((often / draws).tolist(), successive(PREFERENCES.tolist(), k), strict=True):
        assert abs(got - expected) < 4 * math.sqrt(expected * (1 - expected) / draws) + 1e-9


@pytest.mark.parametrize("k", [1, 2, 3])
def test_corrected_weights_make_the_picked_mean_unbiased(k):
    losses, draws = torch.tensor([1.0, 5.0, -2.0, 7.0]), 3000
    picked = every_epoch(lambda numbers: draw_examples(PREFERENCES, k, numbers), 4, draws)
    means = (picked.weights * losses[picked.positions]).mean(1)
    assert abs(float(means.mean() - losses.mean())) < 4 * float(means.std()) / math.sqrt(draws)
    plain = sum(p * float(x) for p, x in zip(successive(PREFERENCES.tolist(), k), losses, strict=True)) / k
    assert abs(plain - float(losses.mean())) > 0.1  # which it is not without them


def test_top_keeps_the_largest_and_of_equals_the_earlier():
    picked = draw_examples(torch.tensor([1.0, 3.0, 1.0, 2.0]), 3, stream(), "top")
    assert picked.positions.tolist() == [0, 1, 3] and picked.weights.tolist() == [1, 1, 1]


def test_what_an_example_draws_does_not_depend_on_its_place():
    order = torch.tensor([2, 0, 3, 1])
    for epoch in range(20):
        one = draw_examples(PREFERENCES, 2, stream(epoch=epoch)).positions
        other = draw_examples(PREFERENCES[order], 2, stream(epoch=epoch).take(order)).positions
        assert sorted(order[other].tolist()) == one.tolist()


@pytest.mark.parametrize("preferences, expected", [([1, 1, 1, 1], 1.0), ([1, 1, 1e-30, 1e-30], 0.5), ([1, 1e-30], 0)])
def test_entropy_is_one_where_the_draw_is_uniform(preferences, expected):
    found = draw_examples(torch.tensor(preferences), 1, stream(len(preferences))).entropy
    assert float(found) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    preferences=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12),
    part=st.floats(0.01, 1),
    how=st.sampled_from(["multinomial", "systematic", "top"]),
)
def test_picks_are_unique_rising_and_their_weights_finite(preferences, part, how):
    size = len(preferences)
    k = count(part, size)
    picked = draw_examples(torch.tensor(preferences), k, stream(size), how)
    assert picked.positions.tolist() == sorted(set(picked.positions.tolist())) and len(picked.positions) == k
    assert torch.isfinite(picked.weights).all() and (picked.weights > 0).all()
    if k == size:
        assert picked.weights.tolist() == [1.0] * size


@pytest.mark.parametrize(
    "part, size, expected", [(0.25, 64, 16), (0.29, 100, 29), (0.25, 3, 1), (0.3, 10, 3), (1, 7, 7)]
)
def test_the_count_is_the_whole_part_and_one_at_least(part, size, expected):
    assert count(part, size) == expected


# ---- preferences ----


def test_margin_by_hand():
    batch = seen()._replace(margins=torch.tensor([2.0, -1.0, 0.5, 0.0]))
    expected = torch.tensor([1 / 2.01, 1 / 1.01, 1 / 0.51, 100.0])
    assert torch.allclose(Margin().compute_preferences(batch), expected)
    signed = Margin(signed=True, margin_eps=0.5).compute_preferences(batch)
    assert torch.allclose(signed, torch.tensor([0.4, 2.0, 1.0, 2.0]))
    picked = Margin(rho=0.5, warm_up=0, draw="top").pick(batch, stream())
    assert picked.positions.tolist() == [2, 3]


def test_gradient_matching_by_hand():
    """Residuals (1, -1), (-1, 1), (3, -3) at one feature and no bias: the sum points where 0 and 2 do."""
    residuals = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [3.0, -3.0], [0.0, 0.0]])
    rows = FactoredRows(residuals=(residuals,), features=(torch.ones(4, 1),))
    assert torch.allclose(measure_cosines(rows), torch.tensor([1.0, -1.0, 1.0, 0.0], dtype=torch.float64), atol=1e-9)
    weights = torch.tensor([1.0, 9.0, 1.0, 1.0])  # which turn the sum round
    for own, expected in ((torch.ones(4), [1.0, 0, 1, 0]), (weights, [0, 1.0, 0, 0])):
        batch = Seen(torch.zeros(4), residuals, own, rows)
        expected = torch.tensor(expected, dtype=torch.float64) + 1e-6
        assert torch.allclose(GradientMatching().compute_preferences(batch), expected)


def test_cosines_are_those_of_the_rows_written_out():
    batch = seen()
    matrix, weights = batch.rows.dense(), batch.weights.double()
    for own, total in ((None, matrix.sum(0)), (batch.weights, weights @ matrix)):
        expected = torch.nn.functional.cosine_similarity(matrix, total[None], dim=1)
        assert torch.allclose(measure_cosines(batch.rows, own), expected, atol=1e-9)


def test_residual_norm_by_hand():
    batch = seen()._replace(residuals=torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    assert ResidualNorm().compute_preferences(batch).tolist() == pytest.approx([5 + 1e-6, 1e-6])


# ---- loss-ranked, and the mix ----


def test_loss_ranked_keeps_the_largest_of_both_together():
    losses = torch.tensor([0.1, 5.0, 0.3, 2.0, 9.0, 0.2])
    assert LossRanked().keep(0.5, losses, stream(3)).tolist() == [1, 3, 4]
    assert LossRanked().keep(1.0, losses, stream(3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert LossRanked().keep(0.01, losses, stream(3)).tolist() == [4]


ACCURACIES = [{"clean": clean, "robust": clean / 2} for clean in (0.2, 0.5, 0.9, 0.6)]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"p_up": 0.3}, [0.3] * 5),
        ({"adaptive": "recursive"}, [1, 0.8, 0.4, 0.1, 0.1]),  # 0.8 x 0.5, then 0.04 and 0.04 below the floor
        ({"adaptive": "direct"}, [1, 0.8, 0.5, 0.1, 0.4]),
        ({"adaptive": "direct", "accuracy": "robust"}, [1, 0.9, 0.75, 0.55, 0.7]),
        ({"adaptive": "direct", "p_min": 0.45}, [1, 0.8, 0.5, 0.45, 0.45]),
        ({"adaptive": "recursive", "warm_up": 2}, [1, 1, 0.5, 0.1, 0.1]),
        ({"warm_up": 3}, [1, 1, 1, 0.5, 0.5]),
    ],
)
def test_how_much_is_kept_by_hand(changes, expected):
    rule = LossRanked(**changes)
    assert [rule.choose_share(epoch, ACCURACIES[:epoch]) for epoch in range(5)] == pytest.approx(expected)


@pytest.mark.parametrize("p_up, adversarial, moved", [(0.5, 0.5, 4), (0.5, 0, 0), (0.5, 1, 8), (1, 0, 8), (0.75, 0, 4)])
def test_a_random_mix_has_the_shares_asked_for_as_far_as_there_are_images(p_up, adversarial, moved):
    rule = RandomMix(p_up=p_up, adversarial=adversarial)
    kept = rule.keep(p_up, None, stream(8))
    assert len(kept.unique()) == len(kept) == int(16 * p_up)
    assert int((kept >= 8).sum()) == moved == rule.count_attacked(8)
    assert kept.tolist() == sorted(kept.tolist()) and int(kept.max()) < 16


# ---- over the table ----


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("draw", ["multinomial", "systematic", "top"])
@pytest.mark.parametrize("rho", [0.01, 0.25, 0.6, 1.0])
def test_every_rule_picks_its_share_and_nothing_twice(name, draw, rho):
    rule = RULES[name](rho=rho, draw=draw)
    for look in (None, seen(8)):
        picked = rule.pick(look, stream(8))
        assert len(picked.positions.unique()) == len(picked.positions) == count(rho, 8)
        assert picked.weights.tolist() == [1.0] * len(picked.positions)


@pytest.mark.case("F9")
@pytest.mark.parametrize("name", ATTACKS)
def test_preferences_stay_above_zero_and_finite_at_any_logits(name):
    rule = RULES[name](rho=0.25)
    for scale in (0.0, 1e-20, 1.0, 1e8):
        batch = seen(scale=scale)
        if rule.reads:
            found = rule.compute_preferences(batch)
            assert found.shape == (8,) and torch.isfinite(found).all() and (found > 0).all()
        assert len(rule.pick(batch if rule.reads else None, stream(8)).positions) == 2


@pytest.mark.parametrize("name", ATTACKS)
def test_corrected_weights_are_bounded_and_uniform_draws_have_none(name):
    rule = RULES[name](correction="inverse_probability", draw="multinomial", rho=0.1)
    batch = seen(20)
    uniform = every_epoch(lambda numbers: rule.pick(None, numbers), 20, 200)
    assert uniform.weights.tolist() == [[1.0, 1.0]] * 200
    weights = every_epoch(lambda numbers: rule.pick(batch, numbers), 20, 200).weights
    assert weights.shape == (200, 2) and torch.isfinite(weights).all() and float(weights.max()) < 500


@pytest.mark.parametrize("name", ["margin", "gradient_matching"])
def test_a_corrected_rule_is_unbiased_with_its_share_of_uniform_draws(name):
    rule, batch, losses = RULES[name](correction="inverse_probability"), seen(8), torch.linspace(-1, 3, 8)
    picked = every_epoch(lambda numbers: rule.pick(batch, numbers), 8, 4000)
    means = (picked.weights * losses[picked.positions]).mean(1)
    assert abs(float(means.mean() - losses.mean())) < 4 * float(means.std()) / math.sqrt(len(means))


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_scored_in_the_warm_up_nor_where_all_are_picked(name):
    rule = RULES[name](warm_up=2)
    assert not rule.needs_scores(1, 8) and rule.needs_scores(2, 8) == (rule.reads in ("logits", "features"))
    assert not RULES[name](rho=1.0, warm_up=0).needs_scores(5, 8)


def test_random_ignores_what_it_is_shown():
    assert RandomSubset().reads is None


@pytest.mark.parametrize("name", [*ATTACKS, *UPDATES])
@pytest.mark.parametrize("value", [0, -0.5, 1.01, float("nan"), "a", None])
def test_a_share_out_of_range_is_one_line(name, value):
    key = "rho" if name in ATTACKS else "p_up"
    if name not in (*ATTACKS, *UPDATES):
        pytest.skip("it leaves out examples with a probability")
    with pytest.raises(ConfigError, match=f"{key} must be a share") as caught:
        RULES[name](**{key: value})
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    "name, changes",
    [
        ("margin", {"warm_up": -1}),
        ("margin", {"clean": -0.1}),
        ("margin", {"draw": "tops"}),
        ("margin", {"correction": "yes"}),
        ("margin", {"draw": "top", "correction": "inverse_probability"}),
        ("margin", {"margin_eps": 0}),
        ("margin", {"margin_eps": 1e300}),
        ("loss_ranked", {"adaptive": "yes"}),
        ("loss_ranked", {"p_min": 0}),
        ("loss_ranked", {"accuracy": "both"}),
        ("loss_ranked", {"probed": -1}),
        ("loss_ranked", {"look": "both"}),
        ("loss_ranked", {"queue": True, "look": "train"}),
        ("random_mix", {"adversarial": 2}),
        ("random", {"rest": "forgotten"}),
        ("oldest", {"rest": "dropped"}),
        ("oldest", {"correction": "inverse_probability"}),  # its draw is the top
        ("mixed", {"loss_change": -1}),
        ("mixed", {"low_confidence": 0, "oldest": 0}),
        ("free", {"replays": 0}),
        ("free", {"step": 0}),
        ("bullettrain", {"robust_steps": -1}),
        ("bullettrain", {"outlier_steps": 0.5}),
        ("bullettrain", {"weak_step": 0}),
        ("bullettrain", {"momentum": 1}),
        ("bullettrain", {"discount": 0}),
        ("bullettrain", {"smoothing": 1}),
        ("bullettrain", {"most": 0}),
    ],
)
def test_every_other_bad_setting_is_one_line_that_names_it(name, changes):
    with pytest.raises(ConfigError) as caught:
        RULES[name](**changes)
    assert len(caught.value.lines) == 1 and list(changes)[-1] in caught.value.lines[0]
