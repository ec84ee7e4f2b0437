"""Perceptual attacks search inside their ball, and attacks of one ball that disagree are flagged (issue 21, 12)."""

import functools

import pytest
import torch
from seeds import seeded
from torch import nn

from advcore.attacks import LPA, PPGD, FastLPA, LinfPGD
from advcore.data.source import Resident
from advcore.evaluation.comparisons import flag_order
from advcore.evaluation.evaluate import evaluate

N = 20


def network(seed=0, width=6):
    with seeded(seed):
        body = [nn.Conv2d(1, width, 3, 2, 1), nn.Tanh(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*body, nn.Linear(16 * width, 5)).eval()
    with torch.no_grad():
        model[-1].weight *= 30  # as after training: the margin outweighs the penalty for leaving the ball
    return model


@functools.cache
def data():
    x = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Resident(x, network()(x).argmax(1))


def share_right(attack):
    """What the attack leaves right; it is asserted that it stays in its ball."""
    result = evaluate(network(), data(), [attack], keep_examples=True)
    bound = attack.bind(network(), lambda model: model)
    assert float(bound.excess(data()._images, result.examples["0"]).max()) <= 0.01 * attack.eps
    return result.attacks[0]["accuracy"]


MEMBERS = {
    "the ball of the others": {},
    "a smaller ball": {"eps": 0.15},
    "a larger ball": {"eps": 0.25},
    "named layers": {"layers": ["1"]},
}


@pytest.mark.parametrize("name", MEMBERS)
def test_the_projected_fast_lpa_is_about_as_strong_as_lpa_in_the_same_ball(name):
    ball = {"eps": 0.2} | MEMBERS[name]
    assert share_right(FastLPA(project=True, steps=25, **ball)) <= share_right(LPA(steps=5, **ball)) + 1 / N


def test_so_it_is_where_another_network_measures_the_distance():
    attacks = [FastLPA(eps=0.2, steps=25, project=True), LPA(eps=0.2, steps=5)]
    fast, thorough = (share_right(attack.by(network(seed=1))) for attack in attacks)
    assert fast <= thorough + 1 / N < 1


def test_more_steps_do_not_end_short_of_the_ball():
    few, many = (share_right(FastLPA(eps=0.2, steps=steps, project=True)) for steps in (5, 25))
    assert many <= few - 2 / N


@pytest.mark.parametrize("steps", [2, 10])
def test_what_judges_the_epochs_of_perceptual_training_is_about_as_strong_as_ppgd(steps):
    judge = FastLPA(eps=0.2, steps=steps, correct_only=True).probe()
    assert not judge.training_only
    assert share_right(judge) <= share_right(PPGD(eps=0.2, steps=5)) + 2 / N


def test_as_published_it_is_not_brought_back():
    attack = FastLPA(eps=0.1, steps=5)
    assert attack.training_only and attack.passes() == (11, 5)


def entry(name, accuracy, **facts):
    facts = {"norm": "linf", "eps": 0.1, "steps": 10, "restarts": 1} | facts
    return {"name": name, "accuracy": accuracy, "interval": [accuracy - 0.02, accuracy + 0.02]} | facts


LPIPS = {"norm": "lpips", "eps": 0.3, "network": "own", "layers": None}
STANDARD = {"version": "standard", "parts": ["apgd-ce", "apgd-t", "fab-t", "square"], "steps": 100}
PAIRS = {
    "Fast-LPA far behind LPA": (
        entry("fast_lpa", 1.0, **LPIPS),
        entry("lpa", 0.0, rounds=5, **LPIPS),
        "weak: a stronger attack leaves far fewer images correct in the same ball "
        "(lpa of 10 steps: 0.000, fast_lpa of 10 steps: 1.000)",
    ),
    "Fast-LPA before LPA": (
        entry("fast_lpa", 0.5, **LPIPS),
        entry("lpa", 0.6, rounds=5, **LPIPS),
        "masked: the weaker attack leaves fewer images correct in the same ball "
        "(fast_lpa of 10 steps: 0.500, lpa of 10 steps: 0.600)",
    ),
    "one step before many": (
        entry("linf_pgd", 0.5, steps=1),
        entry("linf_pgd", 0.6, steps=50),
        "masked: the weaker attack leaves fewer images correct in the same ball "
        "(linf_pgd of 1 step: 0.500, linf_pgd of 50 steps: 0.600)",
    ),
    "PGD with restarts far behind AutoAttack": (
        entry("linf_pgd", 0.6, steps=50, restarts=50),
        entry("autoattack", 0.5, **STANDARD),
        "weak: a stronger attack leaves far fewer images correct in the same ball "
        "(autoattack of 100 steps: 0.500, linf_pgd of 50 steps: 0.600)",
    ),
    "PGD before AutoAttack": (
        entry("linf_pgd", 0.5, steps=50, restarts=50),
        entry("autoattack", 0.6, **STANDARD),
        "masked: the weaker attack leaves fewer images correct in the same ball "
        "(linf_pgd of 50 steps: 0.500, autoattack of 100 steps: 0.600)",
    ),
}
QUIET = {
    "within the intervals": (entry("fast_lpa", 0.53, **LPIPS), entry("lpa", 0.5, rounds=5, **LPIPS)),
    "another ball": (entry("fast_lpa", 1.0, **LPIPS), entry("lpa", 0.0, rounds=5, **LPIPS | {"eps": 0.4})),
    "another network": (entry("fast_lpa", 1.0, **LPIPS), entry("lpa", 0.0, rounds=5, **LPIPS | {"network": "X"})),
    "other layers": (entry("fast_lpa", 1.0, **LPIPS), entry("lpa", 0.0, rounds=5, **LPIPS | {"layers": ["1"]})),
    "as many steps": (entry("linf_pgd", 0.6, start="clean"), entry("linf_pgd", 0.5, start="uniform")),
    "a black box behind": (entry("autoattack", 0.6, version="square", steps=5000), entry("linf_pgd", 0.5)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_attacks_of_one_ball_that_disagree_are_flagged(name):
    *entries, line = PAIRS[name]
    assert [*map(str, flag_order(entries))] == [*map(str, flag_order(entries[::-1]))] == [line]


@pytest.mark.parametrize("name", QUIET)
def test_those_that_cannot_be_compared_are_not(name):
    assert flag_order(QUIET[name]) == []


def test_the_flag_is_in_the_evaluation():
    attacks = [LinfPGD(eps=0.3, steps=10, step_size=0.001, start="clean"), LinfPGD(eps=0.3, steps=20)]
    flags = evaluate(network(), data(), attacks, checks=True).flags
    assert any(
        flag.startswith("weak: a stronger attack leaves far fewer images correct in the same ball") for flag in flags
    )
