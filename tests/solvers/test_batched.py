"""Pursuits that advance as one batch, against one at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies

from advcore.solvers import batched, pursuit
from advcore.solvers.batched import pursue_together
from advcore.solvers.products import GramProducts
from advcore.solvers.pursuit import PursuitProblem, pursue

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
each_device = pytest.mark.parametrize("device", DEVICES)
both_signs = pytest.mark.parametrize("nonnegative", [True, False])


def problem(matrix, k, *, ridge=0.0, target=None, closed=()):
    """(N, F) rows as what a pursuit asks for; ridge is relative to the mean squared norm."""
    matrix = matrix.double()
    gram, target = matrix @ matrix.T, matrix.sum(0) if target is None else target.double()
    shut = np.zeros(len(matrix), dtype=bool)
    shut[list(closed)] = True
    absolute = ridge * float(gram.diagonal().mean())
    return {
        "gram": gram,
        "correlation": (matrix @ target).numpy(),
        "norm": float(target.norm()),
        "k": k,
        "ridge": absolute,
        "closed": shut,
    }


def draw(n, width, seed, lean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64) + lean


def pursuit_problem(one):
    same = {name: one[name] for name in ("correlation", "k", "ridge", "closed")}
    return PursuitProblem(target_norm=one["norm"], **same)


def together(problems, device="cpu", dtype=torch.float64, **changes):
    grams = [one["gram"].to(device, dtype) for one in problems]
    return pursue_together(grams, [pursuit_problem(one) for one in problems], **changes)


def alone(one, dtype=torch.float64, **changes):
    products = GramProducts(one["gram"].to(dtype, copy=True).numpy())
    return pursue(products, pursuit_problem(one), **changes)


def assert_same(problems, device="cpu", dtype=torch.float64, atol=1e-7, **changes):
    found = together(problems, device, dtype, **changes)
    for own, one in zip(found, problems, strict=True):
        slow = alone(one, dtype, **changes)
        assert own.support == slow.support and own.stopped == slow.stopped
        np.testing.assert_allclose(own.weights, slow.weights, rtol=1e-6, atol=atol)
        np.testing.assert_allclose(own.path, slow.path, rtol=1e-4, atol=10 * atol)
        assert len(own.path) == len(slow.path)
    return found


@each_device
@both_signs
@pytest.mark.parametrize("ridge", [0.0, 0.02, 0.5])
@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    sizes=strategies.lists(
        strategies.tuples(strategies.integers(2, 40), strategies.integers(1, 15), strategies.integers(1, 40)),
        min_size=1,
        max_size=5,
    ),
    tolerance=strategies.sampled_from([1e-4, 0.1, 0.5]),
    lean=strategies.sampled_from([0.0, 0.5]),
    whole=strategies.booleans(),
    seed=strategies.integers(0, 10**6),
)
def test_each_problem_gets_what_it_gets_alone(device, nonnegative, ridge, sizes, tolerance, lean, whole, seed):
    problems = []
    for p, (n, width, k) in enumerate(sizes):
        target = None if whole else draw(1, width, seed - p, lean)[0]
        problems.append(problem(draw(n, width, seed + p, lean), min(k, n), ridge=ridge, target=target))
    assert_same(problems, device, nonnegative=nonnegative, tolerance=tolerance)


def test_rows_leave_in_problems_like_those_above():
    """A path is one longer for each row that joined, whether it stayed or not."""
    problems = [problem(draw(40, 12, seed, 0.5), 20, target=draw(1, 12, -seed, 0.5)[0]) for seed in range(8)]
    found = assert_same(problems, tolerance=1e-4)
    assert sum(len(one.path) - len(one.support) for one in found) >= 4


@each_device
@both_signs
def test_ridges_may_differ_and_closed_rows_never_join(device, nonnegative):
    problems = [
        problem(draw(30, 10, p, 0.3), 8, ridge=ridge, closed=range(p, 25, 3))
        for p, ridge in enumerate([0.0, 0.02, 0.5])
    ]
    problems.append(problem(draw(5, 10, 9), 5, closed=range(5)))
    found = assert_same(problems, device, nonnegative=nonnegative)
    assert all(not one["closed"][own.support].any() for own, one in zip(found, problems, strict=True))
    assert (found[-1].support, found[-1].stopped) == ([], "no row correlates with the residual")


@each_device
@both_signs
@pytest.mark.parametrize("every", [1, 3])
def test_summing_all_of_it_again_gives_the_same_answer(device, every, nonnegative, monkeypatch):
    problems = [problem(draw(n, 12, n, 0.4), k, ridge=0.01) for n, k in ((40, 20), (25, 25), (9, 2))]
    once = together(problems, device, nonnegative=nonnegative, tolerance=1e-6)
    monkeypatch.setattr(batched, "REFRESH", every)
    monkeypatch.setattr(pursuit, "REFRESH", every)
    again = assert_same(problems, device, nonnegative=nonnegative, tolerance=1e-6)
    for own, one in zip(again, once, strict=True):
        assert own.support == one.support and own.stopped == one.stopped
        np.testing.assert_allclose(own.weights, one.weights, rtol=1e-6, atol=1e-8)


@each_device
@both_signs
@pytest.mark.parametrize("every", [2, 128])
def test_one_that_is_done_long_before_the_others_stands_still(device, every, nonnegative, monkeypatch):
    monkeypatch.setattr(batched, "REFRESH", every)
    early = [
        problem(draw(60, 80, 0), 1),
        problem(torch.eye(60), 60, target=torch.eye(60)[3]),  # the tolerance, after one pick
        problem(draw(60, 80, 1), 50, target=torch.zeros(80)),
    ]
    found = assert_same([*early, problem(draw(60, 80, 2, 0.2), 55, ridge=0.02)], device, nonnegative=nonnegative)
    assert [len(one.support) for one in found] == [1, 1, 0, 55]
    assert [one.stopped for one in found] == ["budget", "tolerance", "no row correlates with the residual", "budget"]


@each_device
@both_signs
def test_hard_problems_beside_an_ordinary_one(device, nonnegative):
    line = torch.tensor([3.0, 2.0, 1.0, -1.0, -2.0, 0.5], dtype=torch.float64)
    problems = [
        problem(line[:, None] * torch.ones(1, 3), 6),
        problem(torch.zeros(4, 3), 4),
        problem(torch.cat([draw(5, 6, 0), torch.zeros(2, 6)]), 7),
        problem(draw(20, 30, 1), 12),
        problem(draw(1, 3, 2), 1),
    ]
    found = assert_same(problems, device, nonnegative=nonnegative)
    assert len(found[0].support) == 1 and found[1].support == [] and len(found[3].support) == 12
    for own in found:
        assert np.isfinite(own.weights).all() and np.isfinite(own.path).all()


@each_device
@both_signs
@pytest.mark.parametrize("ridge", [0.0, 0.02])
def test_of_equal_rows_the_batch_uses_as_many_as_one_at_a_time(device, nonnegative, ridge):
    problems = [problem(draw(7, 12, seed, 0.3).repeat(3, 1), 7, ridge=ridge) for seed in range(4)]
    found = together(problems, device, nonnegative=nonnegative, tolerance=1e-4)
    for own, one in zip(found, problems, strict=True):
        slow = alone(one, nonnegative=nonnegative, tolerance=1e-4)
        assert own.stopped == slow.stopped and len(set(own.support)) == len(own.support)
        assert [i % 7 for i in own.support] == [i % 7 for i in slow.support]
        np.testing.assert_allclose(own.weights, slow.weights, rtol=1e-6, atol=1e-7)


@each_device
@both_signs
@pytest.mark.parametrize("every", [3, 128])
def test_float32_products_give_the_same_picks(device, every, nonnegative, monkeypatch):
    monkeypatch.setattr(batched, "REFRESH", every)
    problems = [problem(draw(n, 60, n, 0.1), k, ridge=0.02) for n, k in ((120, 30), (80, 40), (50, 3))]
    found = together(problems, device, torch.float32, nonnegative=nonnegative)
    for own, one in zip(found, problems, strict=True):
        slow = alone(one, nonnegative=nonnegative)
        assert own.support == slow.support and own.stopped == slow.stopped
        np.testing.assert_allclose(own.weights, slow.weights, rtol=0, atol=1e-4)


@each_device
def test_what_it_is_given_stays_as_it_was(device):
    problems = [problem(draw(20, 10, seed, 0.3), 8) for seed in range(2)]
    grams = [one["gram"].to(device) for one in problems]
    before = [gram.clone() for gram in grams]
    correlations = [one["correlation"].copy() for one in problems]
    together([{**one, "gram": gram} for one, gram in zip(problems, grams, strict=True)], device)
    assert all(torch.equal(*pair) for pair in zip(grams, before, strict=True))
    assert all(np.array_equal(one["correlation"], own) for one, own in zip(problems, correlations, strict=True))


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_as_it_was_afterwards(allowed):
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        together([problem(draw(6, 4, 0), 3)])
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_autocast_does_not_reach_the_products():
    problems = [problem(draw(60, 30, 1, 0.2), 20)]
    plain = together(problems, dtype=torch.float32)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = together(problems, dtype=torch.float32)[0]
    assert inside.support == plain.support and np.array_equal(inside.weights, plain.weights)
