"""The l1 ball's projection, step and start beside slow twins."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from advcore.attacks import L1PGD
from advcore.attacks.geometry import draw_l1, project_l1, step_l1
from advcore.rng import Stream


def bisected(z, x, eps):
    """Each pixel's move shortened by one length and cut at its room; the length by 200 halvings."""
    delta = z - x
    room = np.where(delta > 0, 1 - x, x)

    def moved(length):
        return np.minimum(np.maximum(np.abs(delta) - length, 0), room)

    low, high = 0.0, np.abs(delta).max()
    if moved(0.0).sum() <= eps:
        return x + np.sign(delta) * moved(0.0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle).sum() > eps else (low, middle)
    return x + np.sign(delta) * moved(high)


@pytest.mark.case("E1")
@settings(deadline=None, derandomize=True, max_examples=80)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 40), eps=st.floats(0.0, 8.0), reach=st.floats(0.01, 3.0))
def test_the_projection_is_the_bisected_one(seed, size, eps, reach):
    rng = np.random.default_rng(seed)
    x = rng.random(size).round(2)
    z = x + reach * rng.standard_normal(size).round(2)
    got = project_l1(torch.tensor(z)[None], torch.tensor(x)[None], eps)[0].numpy()
    assert np.abs(got - bisected(z, x, eps)).max() < 1e-9
    assert np.abs(got - x).sum() <= eps * (1 + 1e-12) + 1e-15 and got.min() >= 0 and got.max() <= 1


def test_it_is_the_nearest_point_of_ball_and_box():
    rng = np.random.default_rng(0)
    x, eps = rng.random(6), 0.7
    z = x + rng.standard_normal(6)
    got = project_l1(torch.tensor(z)[None], torch.tensor(x)[None], eps)[0].numpy()
    # moves up and down, each above 0, so that the ball is a linear constraint
    found = minimize(
        lambda m: ((x + m[:6] - m[6:] - z) ** 2).sum(),
        np.zeros(12),
        bounds=[(0, 1 - a) for a in x] + [(0, a) for a in x],
        constraints={"type": "ineq", "fun": lambda m: eps - m.sum()},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert np.abs(got - (x + found.x[:6] - found.x[6:])).max() < 1e-5


@pytest.mark.parametrize("sparsity, count", [(0.05, 2), (0.25, 12), (1.0, 48)])
def test_a_step_moves_the_pixels_of_the_largest_gradients_that_have_room(sparsity, count):
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.rand(4, 3, 4, 4, generator=generator), torch.randn(4, 3, 4, 4, generator=generator)
    x[0, 0], x[1, 1] = 1.0, 0.0
    moved = (step_l1(x, gradient, 0.3, sparsity) - x).flatten(1)
    for own, push, at in zip(moved, gradient.flatten(1), x.flatten(1), strict=True):
        free = [i for i in range(48) if (at[i] < 1 if push[i] > 0 else at[i] > 0)]
        best = sorted(free, key=lambda i: -abs(float(push[i])))[:count]
        assert set(own.nonzero()[:, 0].tolist()) == set(best)
        assert torch.allclose(own.abs().sum(), torch.tensor(0.3), atol=1e-5)
        assert (own[best].sign() == push[best].sign()).all()


def test_the_start_is_uniform_in_the_ball():
    """Of a uniform point in D dimensions, (norm / eps)^D is uniform, and each coordinate is symmetric."""
    x = torch.full((4000, 1, 1, 3), 0.5)
    start = draw_l1(x, 0.1, Stream(seed=0, purpose="attack").at(torch.arange(4000))) - x
    share = (start.flatten(1).abs().sum(1) / 0.1) ** 3
    assert share.max() <= 1 + 1e-5 and abs(float(share.mean()) - 0.5) < 0.02
    assert abs(float((share < 0.25).double().mean()) - 0.25) < 0.03
    assert start.flatten(1).mean(0).abs().max() < 0.003


@pytest.mark.case("E3")
@pytest.mark.parametrize("start", ["clean", "uniform", "gaussian"])
def test_pgd_reaches_the_worst_case_of_a_linear_loss(start):
    """All of eps on the pixel of the largest weight: the dual norm."""
    push = torch.randn(5, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    attack = L1PGD(eps=0.35, steps=40, step_size=0.35, sparsity=1 / 48, start=start)
    generator = Stream(seed=0, purpose="attack").at(torch.arange(5))
    x_adv = attack(lambda z: (push * z.flatten(1)).sum(1), x, generator=generator)
    gained = (push * (x_adv - x).flatten(1)).sum(1)
    assert torch.allclose(gained, 0.35 * push.abs().amax(1), atol=1e-5)
