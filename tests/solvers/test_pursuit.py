"""One pursuit over three kinds of products, and the last refit, against slow twins."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from scipy.optimize import nnls

from advcore.rows import DenseRows, FactoredRows
from advcore.rows.pairwise import choose_unit, gram_matrix
from advcore.solvers import leap
from advcore.solvers import pursuit as module
from advcore.solvers.products import FactorProducts, GramProducts
from advcore.solvers.pursuit import PursuitProblem, pursue, refit

SEEDS = strategies.integers(0, 10**6)
both_signs = pytest.mark.parametrize("nonnegative", [True, False])


def factored(n, seed=0, width=20):
    """Float32 rows of two passes that lean to one side, as gradients do."""
    generator = torch.Generator().manual_seed(seed)
    residuals = [torch.randn(n, 10, generator=generator) + 0.3 for _ in range(2)]
    features = [torch.rand(n, width, generator=generator) for _ in range(2)]
    return FactoredRows(residuals=tuple(residuals), features=tuple(features))


def products_of(rows, way):
    if way == "factors":
        return FactorProducts(rows, choose_unit(rows.squared_norms()))
    dtype = torch.float64 if way == "float64" else torch.float32
    return GramProducts(gram_matrix(rows, dtype, unit=choose_unit(rows.squared_norms())).numpy())


def problem_of(rows, k, target=None, **changes):
    unit, target = choose_unit(rows.squared_norms()), rows.total() if target is None else target
    correlation, norm = rows.correlate(target).numpy() / unit, float(target.norm()) / np.sqrt(unit)
    return PursuitProblem(correlation=correlation, target_norm=norm, k=k, **changes)


def run(rows, k, way="float64", *, nonnegative=True, tolerance=0.0, **changes):
    problem = problem_of(rows, k, **changes)
    return pursue(products_of(rows, way), problem, nonnegative=nonnegative, tolerance=tolerance)


def extended(matrix, target, ridge):
    """Columns extended by sqrt(ridge) I, the target by zeros."""
    m = len(matrix)
    return np.concatenate([matrix, np.sqrt(ridge) * np.eye(m)], axis=1).T, np.concatenate([target, np.zeros(m)])


@functools.cache
def in_float64(seed, ridge, nonnegative):
    return run(factored(340, seed), 60, ridge=ridge, nonnegative=nonnegative)


@both_signs
@pytest.mark.parametrize("ridge", [0.0, 0.05])
@pytest.mark.parametrize("way", ["float32", "factors"])
def test_float32_products_and_factors_give_what_float64_products_give(way, ridge, nonnegative):
    for seed in range(3):
        exact = in_float64(seed, ridge, nonnegative)
        found = run(factored(340, seed), 60, way, ridge=ridge, nonnegative=nonnegative)
        assert found.support == exact.support and len(found.support) == 60
        np.testing.assert_allclose(found.weights, exact.weights, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.path, exact.path, rtol=1e-4, atol=1e-6)
        assert found.stopped == exact.stopped == "budget"


@pytest.mark.case("F4")
@pytest.mark.parametrize("way", ["float64", "float32", "factors"])
@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_weights_are_nnls_on_the_support_also_where_rows_left(way, ridge):
    for seed in range(4):
        rows = factored(60, seed, width=3)
        found = run(rows, 25, way, ridge=ridge)
        unit = choose_unit(rows.squared_norms())
        matrix = rows.dense().numpy()[found.support] / np.sqrt(unit)
        columns, goal = extended(matrix, rows.total().flatten().numpy() / np.sqrt(unit), ridge)
        fast, slow = columns @ found.weights, columns @ nnls(columns, goal)[0]
        np.testing.assert_allclose(fast, slow, rtol=0, atol=(1e-8 if way == "float64" else 1e-4) * np.abs(goal).max())
        assert (found.weights > 0).all()


def test_rows_left_in_the_test_above():
    """A path is one longer for each row that joined, whether it stayed or not."""
    paths = [run(factored(60, seed, width=3), 25) for seed in range(4)]
    assert sum(len(found.path) - len(found.support) for found in paths) >= 4


@both_signs
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("way", ["float64", "float32", "factors"])
def test_summing_all_of_it_again_gives_the_same_answer(way, every, nonnegative, monkeypatch):
    rows = factored(320, 5)
    once = run(rows, 40, nonnegative=nonnegative, ridge=0.01)
    monkeypatch.setattr(module, "REFRESH", every)
    found = run(rows, 40, way, nonnegative=nonnegative, ridge=0.01)
    assert found.support == once.support and found.stopped == once.stopped
    np.testing.assert_allclose(found.weights, once.weights, rtol=0, atol=1e-9 if way == "float64" else 1e-4)


def test_summing_all_of_it_again_corrects_float32_correlations(monkeypatch):
    rows = factored(320, 5)
    errors = []
    exact = run(rows, 40)
    for every in (10**9, 1):
        monkeypatch.setattr(module, "REFRESH", every)
        found = run(rows, 40, "float32")
        assert found.support == exact.support
        errors.append(np.abs(found.weights - exact.weights).max())
    assert errors[1] <= errors[0]


@functools.cache
def one_at_a_time(n, seed, width, k, way, **settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leap, "_LEAP_FROM", 10**9)
        return run(factored(n, seed, width), k, way, **settings)


@both_signs
@pytest.mark.parametrize("ridge", [0.0, 0.02])
@pytest.mark.parametrize("way", ["float64", "float32"])
@pytest.mark.parametrize(("first", "few"), [(1, 4), (5, 30), (8, 1000)])
def test_several_steps_at_once_give_what_one_at_a_time_gives(first, few, way, ridge, nonnegative, monkeypatch):
    for seed, n, width, k in ((0, 320, 20, 60), (1, 60, 3, 25), (2, 40, 20, 40)):
        settings = {"ridge": ridge, "nonnegative": nonnegative, "tolerance": 1e-3}
        slow = one_at_a_time(n, seed, width, k, way, **settings)
        for name, number in (("_FIRST_LEAP", first), ("_FEW", few), ("_LEAP_FROM", 2)):
            monkeypatch.setattr(leap, name, number)
        found = run(factored(n, seed, width), k, way, **settings)
        assert found.support == slow.support and found.stopped == slow.stopped
        atol = 1e-9 if way == "float64" else 1e-4
        np.testing.assert_allclose(found.weights, slow.weights, rtol=1e-6, atol=atol)
        np.testing.assert_allclose(found.path, slow.path, rtol=1e-4, atol=5e-4)


def test_a_long_run_of_leaps_is_still_summed_again_in_float64(monkeypatch):
    """After 128 steps, or at the end of the leap (64 at most) that passes them."""
    rows = DenseRows(matrix=torch.randn(600, 900, generator=torch.Generator().manual_seed(0)))
    products = products_of(rows, "float32")
    correlate, sums = products.correlate, []
    monkeypatch.setattr(leap, "_LEAP_FROM", 2)

    def watched(weights, *, exact):
        sums.append(exact)
        return correlate(weights, exact=exact)

    monkeypatch.setattr(products, "correlate", watched)
    pursue(products, problem_of(rows, 520))
    assert sum(sums) >= 520 // (128 + 64)


@pytest.mark.parametrize("every", [1, 3])
def test_rows_that_leave_when_all_of_it_is_summed_again_may_join_again(every, monkeypatch):
    rows = factored(60, 2, width=3)
    once = run(rows, 25)
    monkeypatch.setattr(module, "REFRESH", every)
    found = run(rows, 25)
    assert found.support == once.support
    np.testing.assert_allclose(found.weights, once.weights, rtol=1e-6, atol=1e-9)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    moves=strategies.lists(strategies.tuples(strategies.booleans(), strategies.integers(0, 8)), max_size=30),
    dtype=strategies.sampled_from([np.float32, np.float64]),
    seed=SEEDS,
)
def test_a_gram_matrix_that_is_reordered_still_gives_the_same_products(moves, dtype, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(9, 5))
    original = (rows @ rows.T).astype(dtype)
    products, slots = GramProducts(original.copy()), []
    for leaves, j in moves:
        if leaves and j in slots:
            slots[slots.index(j)] = None
        elif not leaves and j not in slots:
            slot = slots.index(None) if None in slots else len(slots)
            products.assign(slot, j)
            slots[slot : slot + 1] = [j]
        used = [slot for slot, own in enumerate(slots) if own is not None]
        members = [slots[slot] for slot in used]
        for i in range(9):
            column = products.multiply_row(i, len(slots))
            assert column.dtype == np.float64 and column.shape == (len(slots),)
            assert np.array_equal(column[used], original[i, members])
        weights = np.zeros(len(slots))
        weights[used] = rng.normal(size=len(used))
        if slots:
            exact = weights[used] @ original[members].astype(np.float64)
            spread = products.correlate(weights, exact=True)
            assert spread.dtype == np.float64
            np.testing.assert_allclose(spread, exact, rtol=1e-12, atol=1e-13)
            roughly = products.correlate(weights, exact=False)
            np.testing.assert_allclose(roughly, exact, rtol=0, atol=1e-12 if dtype == np.float64 else 1e-5)
    assert np.array_equal(products.diagonal, original.diagonal())


def test_exact_sums_over_more_rows_than_are_read_at_a_time_are_float64():
    rows = factored(200)
    for way in ("float32", "factors"):
        products = products_of(rows, way)
        for slot in range(150):
            products.assign(slot, slot)
        weights = np.random.default_rng(0).normal(size=150)
        unit = choose_unit(rows.squared_norms())
        stored = gram_matrix(rows, torch.float32 if way == "float32" else torch.float64, unit=unit).double().numpy()
        np.testing.assert_allclose(products.correlate(weights, exact=True), weights @ stored[:150], rtol=0, atol=1e-11)
        np.testing.assert_allclose(products.correlate(weights, exact=False), weights @ stored[:150], rtol=0, atol=1e-3)


@both_signs
def test_rows_that_are_closed_never_join(nonnegative):
    rows = factored(40)
    best = run(rows, 6, nonnegative=nonnegative).support
    closed = np.zeros(40, dtype=bool)
    closed[best[:3]] = True
    found = run(rows, 37, nonnegative=nonnegative, closed=closed)
    assert len(found.support) > 6 and not set(found.support) & set(best[:3])
    assert closed.sum() == 3


def test_it_ends_once_the_tolerance_is_met():
    path = run(factored(60), 30).path
    found = run(factored(60), 30, tolerance=path[9])
    assert (len(found.path), found.stopped) == (10, "tolerance")


@pytest.mark.case("F5")
def test_rows_that_are_combinations_of_others_never_join():
    for way in ("float64", "float32", "factors"):
        base = torch.eye(4, 12) + 0.1
        rows = DenseRows(matrix=torch.cat([base, 2 * base, base[:2] + base[2:]]))
        found = run(rows, 10, way)
        assert np.linalg.matrix_rank(rows.matrix.numpy()[found.support]) == len(found.support) <= 4
        assert found.stopped != "budget" and found.path[-1] < 1e-3


@pytest.mark.case("F5")
def test_a_zero_target_ends_at_once():
    found = run(factored(20), 5, target=torch.zeros(10, 21, dtype=torch.float64))
    assert found.support == [] and found.path == [] and len(found.weights) == 0
    assert found.stopped == "no row correlates with the residual"


@pytest.mark.case("F4")
@settings(deadline=None, derandomize=True, max_examples=80)
@given(m=strategies.integers(1, 12), ridge=strategies.sampled_from([0.0, 0.02, 0.5]), seed=SEEDS)
def test_refitted_weights_are_nnls_where_at_most_one_must_leave(m, ridge, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(m, 15)) + 0.4
    target = (np.abs(rng.normal(size=m)) + 0.2) @ matrix
    columns, goal = extended(matrix, target, ridge)
    wanted = np.linalg.lstsq(columns, goal, rcond=None)[0]
    shift = 1.3 * max(wanted[0], 0.0)  # the first row's best weight turns negative, or stays so
    if m > 1 and seed % 2:
        target = target - shift * matrix[0] * (1 + ridge)
    columns, goal = extended(matrix, target, ridge)
    wanted = np.linalg.lstsq(columns, goal, rcond=None)[0]
    if (wanted <= 0).sum() > 1:
        return
    start = rng.random(m) + 0.1
    found = refit(matrix @ matrix.T, matrix @ target, start.copy(), ridge=ridge, nonnegative=True)
    np.testing.assert_allclose(found, nnls(columns, goal)[0], rtol=1e-7, atol=1e-9)


def test_a_refit_lets_rows_leave_and_the_rest_is_least_squares():
    left = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        matrix, target = rng.normal(size=(10, 14)), rng.normal(size=14)
        found = refit(matrix @ matrix.T, matrix @ target, rng.random(10), ridge=0.1, nonnegative=True)
        kept = np.flatnonzero(found)
        columns, goal = extended(matrix[kept], target, 0.1)
        assert (found >= 0).all()
        np.testing.assert_allclose(found[kept], np.linalg.lstsq(columns, goal, rcond=None)[0], rtol=1e-8, atol=1e-10)
        left += 10 - len(kept)
    assert left > 40


@pytest.mark.parametrize("ridge", [0.0, 0.02, 0.5])
def test_refitted_weights_of_any_sign_are_least_squares(ridge):
    rng = np.random.default_rng(0)
    matrix, target = rng.normal(size=(9, 15)), rng.normal(size=15)
    columns, goal = extended(matrix, target, ridge)
    found = refit(matrix @ matrix.T, matrix @ target, np.zeros(9), ridge=ridge, nonnegative=False)
    assert (found < 0).any()
    np.testing.assert_allclose(found, np.linalg.lstsq(columns, goal, rcond=None)[0], rtol=1e-9, atol=1e-11)


def test_a_support_that_cannot_be_refitted_keeps_its_weights():
    given_weights = np.array([1.0, 2.0])
    gram = np.array([[1.0, 1.0], [1.0, 1.0 - 1e-12]])
    assert np.array_equal(refit(gram, np.ones(2), given_weights, ridge=0.0, nonnegative=True), given_weights)
