"""Losses per example: against hand-worked values, naive formulas, and the derived closed forms."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from advcore.errors import ConfigError
from advcore.objectives import OBJECTIVES
from advcore.objectives.base import (
    ASCENTS,
    choose_ascent,
    compute_cross_entropy,
    compute_margin_loss,
    is_attacked,
    needs_clean,
    takes_mixed_labels,
)
from advcore.objectives.mart import Mart, compute_log_complement
from advcore.objectives.standard import Pgd, Standard
from advcore.objectives.trades import Trades, measure_divergence
from advcore.testing import ObjectiveContract

B, C = 9, 5
EVERY = pytest.mark.parametrize("name", OBJECTIVES)


def some_logits(objective, dtype=torch.float64, scale=3.0):
    draw = torch.Generator().manual_seed(4)
    return {key: (scale * torch.randn(B, C, generator=draw, dtype=torch.float64)).to(dtype) for key in objective.passes}


def labels():
    return torch.arange(B) % C


def residuals(loss, logits):
    """d loss / d logits, one tensor for each forward pass, in order."""
    leaves = {key: z.clone().requires_grad_(True) for key, z in logits.items()}
    return torch.autograd.grad(loss(**leaves).sum(), list(leaves.values()))


# ---- over the table ----


@EVERY
def test_only_an_ascent_that_needs_the_clean_logits_reads_them(name):
    objective, moved = OBJECTIVES[name](), torch.randn(B, C, generator=torch.Generator().manual_seed(1))
    for climbs in ASCENTS:
        if not needs_clean(objective, climbs):
            assert choose_ascent(objective, climbs, labels(), None)(moved).shape == (B,)
        else:
            one, other = (
                choose_ascent(objective, climbs, labels(), shift + 0 * moved)(moved) for shift in (moved, 0.0)
            )
            assert not torch.allclose(one, other)


@pytest.mark.case("F9")
@EVERY
@pytest.mark.parametrize("gap", [200.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_logit_gaps_of_any_size_keep_loss_gradient_and_ascent_finite(name, gap, dtype):
    objective = OBJECTIVES[name]()
    ends = torch.tensor([[gap, 0.0, 0.0], [0.0, gap, 0.0], [-gap, 0.0, gap], [0.0, 0.0, 0.0]], dtype=dtype)
    first, second = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T  # every pair of extremes
    given = dict(zip(objective.passes, (ends[first], ends[second]), strict=False))
    for label in range(3):
        y = torch.full((16,), label)
        assert torch.isfinite(objective.loss(y, **given)).all()
        for residual in residuals(lambda y=y, **z: objective.loss(y, **z), given):
            assert torch.isfinite(residual).all()
        for climbs in ASCENTS:
            climbed = choose_ascent(objective, climbs, y, ends[first])
            (slope,) = residuals(lambda z, climbed=climbed: climbed(z), {"z": ends[second]})
            assert torch.isfinite(climbed(ends[second])).all() and torch.isfinite(slope).all()


@EVERY
def test_residuals_agree_with_finite_differences(name):
    objective, h = OBJECTIVES[name](), 1e-5
    logits = some_logits(objective, scale=1.5)
    for key, residual in zip(logits, residuals(lambda **z: objective.loss(labels(), **z), logits), strict=True):
        for c in range(C):
            step = torch.zeros(C, dtype=torch.float64)
            step[c] = h
            up, down = (objective.loss(labels(), **{**logits, key: logits[key] + sign * step}) for sign in (1, -1))
            assert torch.allclose(residual[:, c], (up - down) / (2 * h), atol=1e-8)


# ---- closed forms: p = softmax(clean), q = softmax(adversarial), y one-hot ----


def softmaxes():
    logits = some_logits(Trades())
    p, q = logits["clean"].softmax(1), logits["adversarial"].softmax(1)
    return logits, p, q, F.one_hot(labels(), C).double()


def test_standard_residual_is_p_minus_y():
    logits, p, _, y = softmaxes()
    (a,) = residuals(lambda clean: Standard().loss(labels(), clean=clean), {"clean": logits["clean"]})
    assert torch.allclose(a, p - y, atol=1e-12)


def test_pgd_residual_is_q_minus_y():
    logits, _, q, y = softmaxes()
    moved = {"adversarial": logits["adversarial"]}
    (a,) = residuals(lambda adversarial: Pgd().loss(labels(), adversarial=adversarial), moved)
    assert torch.allclose(a, q - y, atol=1e-12)


@pytest.mark.parametrize("beta", [1.0, 6.0])
def test_trades_residuals_carry_gradient_in_both_branches_and_beta_once(beta):
    logits, p, q, y = softmaxes()
    clean, adversarial = residuals(lambda **z: Trades(beta=beta).loss(labels(), **z), logits)
    kl = (p * (p.log() - q.log())).sum(1, keepdim=True)
    assert torch.allclose(clean, (p - y) + beta * p * (p.log() - q.log() - kl), atol=1e-12)
    assert torch.allclose(adversarial, beta * (q - p), atol=1e-12)


def test_the_trades_attack_climbs_the_divergence_and_leaves_the_clean_branch_alone():
    logits, p, q, _ = softmaxes()
    clean = logits["clean"].requires_grad_(True)
    climb = choose_ascent(Trades(beta=6.0), "own", labels(), clean)
    moved = logits["adversarial"].clone().requires_grad_(True)
    climbed = climb(moved)
    assert torch.allclose(climbed, (p * (p.log() - q.log())).sum(1), atol=1e-12)  # without beta: same maximiser
    slope, stopped = torch.autograd.grad(climbed.sum(), [moved, clean], allow_unused=True)
    assert torch.allclose(slope, q - p, atol=1e-12) and stopped is None
    assert torch.allclose(climb(clean.detach()), torch.zeros(B, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("objective", [Standard(), Pgd(), Mart()], ids=["standard", "pgd", "mart"])
def test_cross_entropy_objectives_climb_the_cross_entropy(objective):
    moved = some_logits(Standard())["clean"]
    expected = torch.stack([-moved[i].log_softmax(0)[labels()[i]] for i in range(B)])
    assert torch.allclose(choose_ascent(objective, "own", labels(), None)(moved), expected, atol=1e-12)


# ---- values ----


def test_trades_by_hand():
    """p = (3/4, 1/4), q = (1/2, 1/2), label 0: -ln 3/4 + 6 (3/4 ln 3/2 + 1/4 ln 1/2)."""
    clean = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    loss = Trades(beta=6.0).loss(torch.tensor([0]), clean=clean, adversarial=torch.zeros_like(clean))
    assert float(loss) == pytest.approx(0.2876820724517809 + 6 * 0.1308120359, abs=1e-8)


def test_cross_entropy_by_hand():
    z = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    assert float(Standard().loss(torch.tensor([1]), clean=z)) == pytest.approx(math.log(4))
    assert float(Pgd().loss(torch.tensor([0]), adversarial=z)) == pytest.approx(math.log(4 / 3))


def test_trades_is_the_naive_formula_where_that_is_safe():
    logits, p, q, _ = softmaxes()
    for i in range(B):
        kl = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p[i], q[i], strict=True))
        expected = -math.log(float(p[i, labels()[i]])) + 2.5 * kl
        assert float(Trades(beta=2.5).loss(labels(), **logits)[i]) == pytest.approx(expected, abs=1e-10)


def test_mart_by_hand():
    """p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): -ln q_y - ln(1 - q_rival) + beta (1/2 ln 2 - 1/4 ln 2)(1 - p_y)."""
    clean = torch.tensor([[math.log(2), 0.0, 0.0]], dtype=torch.float64)
    moved = torch.tensor([[0.0, math.log(2), 0.0]], dtype=torch.float64)
    kl = 0.5 * math.log(2) - 0.25 * math.log(2)
    expected = math.log(4) + math.log(2) + 5 * kl * 0.5  # the rival is class 1
    assert float(Mart().loss(torch.tensor([0]), clean=clean, adversarial=moved)) == pytest.approx(expected)
    expected = math.log(2) - math.log(1 - 0.25) + 3 * kl * 0.75  # now the rival is class 0 or 2
    assert float(Mart(beta=3).loss(torch.tensor([1]), clean=clean, adversarial=moved)) == pytest.approx(expected)


def test_mart_is_the_naive_formula_where_that_is_safe():
    logits, p, q, _ = softmaxes()
    for i, y in enumerate(labels().tolist()):
        kl = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p[i], q[i], strict=True))
        rival = max(float(q[i, k]) for k in range(C) if k != y)
        expected = -math.log(float(q[i, y])) - math.log(1 - rival) + 2.5 * kl * (1 - float(p[i, y]))
        assert float(Mart(beta=2.5).loss(labels(), **logits)[i]) == pytest.approx(expected, abs=1e-10)


@pytest.mark.case("F9")
def test_the_log_of_a_vanishing_rest_is_the_gap():
    assert float(compute_log_complement(torch.tensor([[500.0, 0.0]]), torch.tensor([0]))) == pytest.approx(-500)


@pytest.mark.case("F9")
@pytest.mark.parametrize("gap", [200.0, 1000.0])
def test_trades_at_an_extreme_gap_is_the_gap(gap):
    """Clean certain of class 0, attacked certain of class 1, label 1: both terms are the gap."""
    clean, moved = torch.tensor([[gap, 0.0]]), torch.tensor([[0.0, gap]])
    assert float(measure_divergence(clean, moved)) == pytest.approx(gap)
    assert float(Trades(beta=6.0).loss(torch.tensor([1]), clean=clean, adversarial=moved)) == pytest.approx(7 * gap)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=2, max_size=6))
def test_the_divergence_is_zero_at_equality_never_negative_and_blind_to_shifts(pairs):
    z, moved = torch.tensor(pairs, dtype=torch.float64).T[:, None, :]
    assert measure_divergence(z, z) == 0 and float(measure_divergence(z, moved)) >= -1e-12
    assert torch.allclose(measure_divergence(z + 5, moved - 7), measure_divergence(z, moved), atol=1e-9)


# ---- label smoothing ----

SMOOTH = {name: kind(label_smoothing=0.1) for name, kind in OBJECTIVES.items() if hasattr(kind, "label_smoothing")}


class TestSmoothed(ObjectiveContract):
    @pytest.fixture(params=SMOOTH.values(), ids=SMOOTH)
    def objective(self, request):
        return request.param


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_a_smoothed_cross_entropy_is_torchs_and_its_residual_p_minus_the_smoothed_label(smoothing):
    z = some_logits(Pgd())["adversarial"]
    slow = F.cross_entropy(z, labels(), reduction="none", label_smoothing=smoothing)
    assert torch.allclose(compute_cross_entropy(z, labels(), smoothing), slow, atol=1e-12)
    (residual,) = residuals(lambda z: compute_cross_entropy(z, labels(), smoothing), {"z": z})
    target = (1 - smoothing) * F.one_hot(labels(), C).double() + smoothing / C
    assert torch.allclose(residual, z.softmax(1) - target, atol=1e-12)


@pytest.mark.parametrize("name", SMOOTH)
def test_smoothing_changes_the_cross_entropy_alone(name):
    plain, logits = OBJECTIVES[name](), some_logits(OBJECTIVES[name]())
    of = logits["clean"] if name in ("standard", "trades") else logits["adversarial"]
    change = SMOOTH[name].loss(labels(), **logits) - plain.loss(labels(), **logits)
    slow = F.cross_entropy(of, labels(), reduction="none", label_smoothing=0.1) - F.cross_entropy(
        of, labels(), reduction="none"
    )
    assert torch.allclose(change, slow, atol=1e-12)


def test_a_masked_class_gets_no_smoothed_mass():
    z = some_logits(Pgd())["adversarial"][:, :4]
    masked = torch.cat([z, torch.full((B, 1), -torch.inf, dtype=z.dtype)], 1)
    y = labels() % 4
    assert torch.allclose(compute_cross_entropy(masked, y, 0.2), compute_cross_entropy(z, y, 0.2), atol=1e-12)


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan"), "a"])
@pytest.mark.parametrize("name", SMOOTH)
def test_a_smoothing_that_is_no_share_is_one_line(name, value):
    with pytest.raises(ConfigError, match="label_smoothing must be a number in") as caught:
        OBJECTIVES[name](label_smoothing=value)
    assert len(caught.value.lines) == 1


# ---- margin ----


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    rows=st.lists(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), min_size=1, max_size=5),
    label=st.integers(0, 2),
    kappa=st.floats(0.5, 60),
)
def test_margin_is_best_other_minus_own_clipped_above(rows, label, kappa):
    z, y = torch.tensor(rows), torch.full((len(rows),), label)
    for got, clipped, row in zip(compute_margin_loss(z, y), compute_margin_loss(z, y, kappa), z, strict=True):
        others = [row[k] for k in range(3) if k != label]
        expected = max(float(other - row[label]) for other in others)
        assert float(got) == pytest.approx(expected)
        assert float(clipped) == pytest.approx(min(expected, kappa))


def test_margin_is_above_zero_exactly_where_misclassified():
    z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(200) % 4
    assert torch.equal(compute_margin_loss(z, y) > 0, z.argmax(1) != y)


# ---- settings ----


def test_which_objectives_are_attacked():
    told = {name: (is_attacked(kind()), kind.ascent_needs_clean) for name, kind in OBJECTIVES.items()}
    assert {name: told[name] for name in ("standard", "pgd", "trades")} == {
        "standard": (False, False),
        "pgd": (True, False),
        "trades": (True, True),
    }


def test_an_unknown_ascent_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="climbs.*'margins'.*did you mean 'margin'"):
        choose_ascent(Pgd(), "margins", labels(), None)


@pytest.mark.parametrize("objective", [Trades, Mart])
@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), float("inf"), "6"])
def test_beta_out_of_range_is_named(objective, beta):
    with pytest.raises(ConfigError) as caught:
        objective(beta=beta)
    assert "beta" in str(caught.value) and repr(beta) in str(caught.value)


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        Trades().beta = 1.0
    assert replace(Trades(), beta=1.0).beta == 1.0


# ---- mixed labels ----


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_mixed_labels_is_the_mean_of_both_labels_losses(smoothing):
    """Also the hand-worked one: logits log 1, log 3, of which a label of .25 and .75 has .25 log 4 + .75 log 4/3."""
    z, share = some_logits(Pgd())["adversarial"], torch.linspace(0, 1, B, dtype=torch.float64)
    y, partner = labels(), labels().flip(0)
    shares = share[:, None] * F.one_hot(y, C) + (1 - share[:, None]) * F.one_hot(partner, C)
    slow = share * compute_cross_entropy(z, y, smoothing) + (1 - share) * compute_cross_entropy(z, partner, smoothing)
    assert torch.allclose(compute_cross_entropy(z, shares, smoothing), slow, atol=1e-12)
    (loss,) = compute_cross_entropy(torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[0.25, 0.75]]))
    assert float(loss) == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))


def test_a_masked_class_without_a_share_has_no_part_and_one_with_a_share_is_infinite():
    z = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    loss = compute_cross_entropy(z, torch.tensor([[0.5, 0.5, 0.0]]), 0.2)
    assert loss.item() == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert torch.isfinite(gradient).all()
    assert compute_cross_entropy(z, torch.tensor([[0.5, 0.0, 0.5]])).isinf()


@EVERY
def test_objectives_that_say_so_take_mixed_labels(name):
    objective = OBJECTIVES[name]()
    assert takes_mixed_labels(objective) == (name != "mart")
    if name != "mart":
        logits, y = some_logits(objective), labels()
        shares = F.one_hot(y, C).double()
        assert torch.allclose(objective.loss(shares, **logits), objective.loss(y, **logits), atol=1e-12)
