"""Solvers by score, on scores written down."""

import pytest
import torch
from hypothesis import given, settings, strategies

from advcore.errors import ConfigError
from advcore.gradients import GRADIENTS
from advcore.rng import Stream
from advcore.rows import DenseRows
from advcore.solvers import SOLVERS
from advcore.solvers.scored import CCS, SCORES, ByScore, Moderate, Scored

values = strategies.lists(strategies.integers(0, 6), min_size=1, max_size=20)


def solve(solver, scores, k):
    rows = DenseRows(matrix=torch.tensor(scores, dtype=torch.float64)[:, None])
    return solver(rows, k, generator=Stream(seed=0, purpose="solver").at(torch.arange(len(scores))))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(scores=values, share=strategies.floats(0, 1), keep=strategies.sampled_from(["hardest", "easiest", "middle"]))
def test_the_hardest_easiest_or_middle_are_kept_with_ties_to_the_lower_index(scores, share, keep):
    k = max(1, round(share * len(scores)))
    middle = sorted(scores)[(len(scores) - 1) // 2]
    worth = {"hardest": lambda s: -s, "easiest": lambda s: s, "middle": lambda s: abs(s - middle)}[keep]
    found = solve(ByScore(keep=keep), scores, k)
    assert found.indices.tolist() == sorted(range(len(scores)), key=lambda i: (worth(scores[i]), i))[:k]
    assert found.weights.tolist() == pytest.approx([len(scores) / k] * k)


def test_moderate_is_the_middle_of_the_distances():
    assert solve(Moderate(), [1.0, 9.0, 4.0, 5.0, 20.0], 3).indices.tolist() == [3, 2, 0]
    assert (
        Moderate().reads == "centre_distance" and Moderate(points="adversarial").reads == "adversarial_centre_distance"
    )


def test_ccs_drops_the_hardest_and_takes_as_many_of_each_stratum_as_it_has():
    """20 easy, 4 of middling and 2 of high score, and 4 above the cutoff; 12 over 3 strata: 2, 4 and the rest easy."""
    scores = [0.0] * 20 + [5.0] * 4 + [9.0] * 2 + [100.0] * 4
    found = solve(CCS(drop=4 / 30, strata=3), scores, 12).indices
    assert sorted(found.tolist())[6:] == [20, 21, 22, 23, 24, 25] and (found < 20).sum() == 6
    found = solve(CCS(drop=4 / 30, strata=3), scores, 3).indices
    assert [int((found < 20).sum()), int(((found >= 20) & (found < 24)).sum()), int((found >= 24).sum())] == [1, 1, 1]
    assert (solve(CCS(drop=0.5), scores, 30).indices.sort().values == torch.arange(30)).all()  # k needs the dropped


@settings(deadline=None, derandomize=True, max_examples=60)
@given(scores=values, share=strategies.floats(0, 1), drop=strategies.floats(0, 0.9), strata=strategies.integers(1, 8))
def test_ccs_gives_k_different_examples_of_any_scores(scores, share, drop, strata):
    k = max(1, round(share * len(scores)))
    found = solve(CCS(drop=drop, strata=strata), scores, k).indices.tolist()
    assert len(set(found)) == len(found) == k
    dropped = len(scores) - max(k, len(scores) - int(drop * len(scores)))
    assert max(scores[i] for i in found) <= sorted(scores)[len(scores) - dropped - 1]


@pytest.mark.parametrize("score", SCORES)
def test_every_score_is_a_kind_of_row_that_can_be_measured(score):
    assert ByScore(score=score).reads == score and score in GRADIENTS
    assert GRADIENTS[ByScore(score=score, points="adversarial").reads].is_attacked


@pytest.mark.parametrize("name", [name for name, kind in SOLVERS.items() if issubclass(kind, Scored)])
def test_a_point_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match="points must be one of clean, adversarial, got 'advers'"):
        SOLVERS[name](points="advers")


@pytest.mark.parametrize(
    "solver, changes",
    [
        (ByScore, {"score": "el3n"}),
        (ByScore, {"keep": "hard"}),
        (CCS, {"drop": 1}),
        (CCS, {"strata": 0}),
    ],
)
def test_every_other_bad_setting_is_one_line(solver, changes):
    with pytest.raises(ConfigError) as caught:
        solver(**changes)
    assert len(caught.value.lines) == 1 and list(changes)[-1] in caught.value.lines[0]
