"""The rows in use, which join and leave, against solving from scratch."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from advcore.solvers import active as module
from advcore.solvers.active import ActiveSet

SEEDS = strategies.integers(0, 10**6)
PANELS = strategies.sampled_from([1, 4, 512])


def problem(seed, n, width, ridge=0.0):
    """(n, n) products with the ridge on the diagonal, and the right-hand side."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, width))
    return rows @ rows.T + ridge * np.eye(n), rng.normal(size=n)


def dense(active, n):
    """(n,) weights, a row at a time."""
    out = np.zeros(n)
    for slot in active.slots:
        out[active.members[slot]] = active.weights[slot]
    return out


def join(active, gram, b, i):
    column = gram[i, active.members[: active.high]]  # a free slot's is the last row's, which must not matter
    return active.join(i, column, gram[i, i], b[i] - gram[i] @ dense(active, len(b)))


def support_of(active):
    return active.members[active.slots].tolist()


def assert_solved(active, gram, b, support, rtol=1e-7):
    own = gram[np.ix_(support, support)]
    assert support_of(active) == support
    np.testing.assert_allclose(active.weights[active.slots], np.linalg.solve(own, b[support]), rtol=rtol, atol=1e-9)
    free = np.setdiff1d(np.arange(len(active.members)), active.slots)
    assert (active.members[free] == -1).all() and not active.weights[free].any()


def walked(gram, b, support, weights):
    """Lawson and Hanson's inner loop, solving from scratch each time; `weights` (n,). Returns support and weights."""
    support, weights = list(support), weights.copy()
    while True:
        wanted = np.zeros(len(b))
        wanted[support] = np.linalg.solve(gram[np.ix_(support, support)], b[support])
        falling = [i for i in support if wanted[i] <= 0]
        if not falling:
            return support, wanted
        strides = {i: weights[i] / (weights[i] - wanted[i]) if weights[i] > wanted[i] else 0.0 for i in falling}
        stride = min(strides.values())
        weights += stride * (wanted - weights)
        support = [i for i in support if strides.get(i, 2.0) > stride]
        weights[[i for i in range(len(b)) if i not in support]] = 0


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    steps=strategies.lists(strategies.tuples(strategies.booleans(), strategies.integers(0, 11)), max_size=40),
    ridge=strategies.sampled_from([0.0, 0.5]),
    panel=PANELS,
    seed=SEEDS,
)
def test_any_sequence_of_joins_and_leaves_solves_as_from_scratch(steps, ridge, panel, seed):
    gram, b = problem(seed, 12, 24, ridge)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PANEL", panel)
        active, support = ActiveSet(12, nonnegative=False), []
        for leaves, i in steps:
            if leaves and support:
                active._remove(active.slots[i % len(support)])
                support.pop(i % len(support))
            elif i not in support:
                assert join(active, gram, b, i)
                support.append(i)
            assert active.settle() == []
            assert_solved(active, gram, b, support)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(order=strategies.permutations(range(16)), ridge=strategies.sampled_from([0.0, 0.5]), panel=PANELS, seed=SEEDS)
def test_settling_walks_and_drops_as_lawson_and_hanson_from_scratch(order, ridge, panel, seed):
    gram, b = problem(seed, 16, 12, ridge)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PANEL", panel)
        active, support, weights = ActiveSet(16), [], np.zeros(16)
        for i in order:
            if b[i] - gram[i] @ weights <= 0.1:  # as a pursuit, which lets in what improves
                continue
            if not join(active, gram, b, i):
                continue
            before = [*support, i]
            support, weights = walked(gram, b, before, weights)
            gone = active.settle()
            assert sorted(gone) == sorted(set(before) - set(support))
            assert_solved(active, gram, b, support)
            assert (active.weights[active.slots] > 0).all()


def test_rows_leave_in_the_test_above():
    gone = 0
    for seed in range(10):
        gram, b = problem(seed, 16, 12)
        active = ActiveSet(16)
        for i in range(16):
            if b[i] - gram[i] @ dense(active, 16) > 0.1 and join(active, gram, b, i):
                gone += len(active.settle())
    assert gone >= 5


def test_a_new_row_that_would_get_a_negative_weight_leaves_at_once():
    gram, b = problem(0, 3, 9)
    b = np.abs(b)
    active = ActiveSet(3)
    assert join(active, gram, b, 0) and active.settle() == []
    before = active.weights.copy()
    b[1] = gram[1, 0] * before[0] - 1
    assert join(active, gram, b, 1)
    assert active.settle() == [1] and support_of(active) == [0]
    np.testing.assert_allclose(active.weights, before, rtol=1e-12)


@pytest.mark.parametrize("panel", [4, 512])
def test_hundreds_of_joins_and_leaves_do_not_wear_it_out(panel, monkeypatch):
    monkeypatch.setattr(module, "_PANEL", panel)
    (gram, b), rng = problem(0, 40, 50), np.random.default_rng(1)
    active, support = ActiveSet(30, nonnegative=False), []
    for _ in range(600):
        if len(support) == 30 or (support and rng.random() < 0.45):
            p = int(rng.integers(len(support)))
            active._remove(active.slots[p])
            support.pop(p)
        else:
            i = int(rng.choice([i for i in range(40) if i not in support]))
            assert join(active, gram, b, i)
            support.append(i)
        active.settle()
    assert len(support) > 5
    assert_solved(active, gram, b, support, rtol=1e-6)


@pytest.mark.parametrize("panel", [1, 4, 5])
def test_the_inverse_is_that_of_the_support_whatever_the_panels(panel, monkeypatch):
    monkeypatch.setattr(module, "_PANEL", panel)
    gram, b = problem(3, 23, 30)
    active = ActiveSet(23, nonnegative=False)
    for i in range(23):
        assert join(active, gram, b, i)
        active.settle()
    for slot in (0, 7, 22, 13, 4, 5):
        active._remove(slot)
        used = active.slots
        inverse = active._inverse.T @ active._inverse
        own = gram[np.ix_(active.members[used], active.members[used])]
        np.testing.assert_allclose(inverse[np.ix_(used, used)] @ own, np.eye(len(used)), atol=1e-9)
        assert not inverse[slot].any()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("panel", [2, 512])
def test_a_dependent_row_is_refused_and_nothing_changes(scale, panel, monkeypatch):
    monkeypatch.setattr(module, "_PANEL", panel)
    rows = np.random.default_rng(0).normal(size=(4, 9))
    rows = np.concatenate([rows, [rows[0] - 2 * rows[2]], [np.zeros(9)], rows[1:2]]) * scale
    gram, b = rows @ rows.T, rows @ np.ones(9)
    active = ActiveSet(7, nonnegative=False)
    for i in (0, 1, 2):
        assert join(active, gram, b, i)
        active.settle()
    before = {name: np.copy(value) for name, value in vars(active).items()}
    for i in (4, 5, 6):
        assert not join(active, gram, b, i)
        assert all(np.array_equal(value, before[name]) for name, value in vars(active).items())
    assert join(active, gram, b, 3) and support_of(active) == [0, 1, 2, 3]


@pytest.mark.parametrize(("dependent", "joins"), [(1e-12, True), (1e-3, False)])
def test_how_dependent_is_too_dependent_is_relative_to_the_rows_own_norm(dependent, joins):
    rows = np.array([[1e5, 0.0], [1e-5, 1e-7]])  # pivot over diagonal 1e-4
    active = ActiveSet(2, dependent=dependent, nonnegative=False)
    assert join(active, rows @ rows.T, np.ones(2), 0) and active.settle() == []
    assert join(active, rows @ rows.T, np.ones(2), 1) == joins


def test_a_dependent_row_may_join_under_a_ridge():
    gram, b = np.ones((2, 2)) + 0.5 * np.eye(2), np.ones(2)
    active = ActiveSet(2)
    for i in range(2):
        assert join(active, gram, b, i) and active.settle() == []
    np.testing.assert_allclose(active.weights, [0.4, 0.4])  # (1 + ridge) w + w = 1


def test_slots_are_those_in_use_in_the_order_they_joined_and_freed_ones_are_used_again():
    gram, b = problem(0, 8, 20)
    active = ActiveSet(5, nonnegative=False)
    assert active.slots.tolist() == [] and active.find_free_slot() == 0
    for i in (6, 1, 4):
        assert join(active, gram, b, i)
        active.settle()
    assert active.slots.tolist() == [0, 1, 2] and active.find_free_slot() == 3
    active._remove(0)
    active._remove(1)
    active.settle()
    assert active.slots.tolist() == [2] and active.find_free_slot() == 0 and active.high == 3
    for i in (5, 6, 3):
        assert join(active, gram, b, i)
        active.settle()
    assert active.high == 4 and active.members.tolist() == [5, 6, 4, 3, -1]
    assert active.slots.tolist() == [2, 0, 1, 3]
    assert_solved(active, gram, b, [4, 5, 6, 3])


@pytest.mark.parametrize("panel", [4, 512])
def test_correct_takes_away_what_rounding_left_over(panel, monkeypatch):
    monkeypatch.setattr(module, "_PANEL", panel)
    gram, b = problem(2, 9, 20)
    active = ActiveSet(9, nonnegative=False)
    for i in range(9):
        join(active, gram, b, i)
        active.settle()
    active._remove(5)
    active.settle()
    support = [0, 1, 2, 3, 4, 6, 7, 8]
    active._refitted[active.slots] += 1e-3
    active.settle()
    weights = dense(active, 9)
    left = b - gram @ weights
    left[5] = 1e6  # a free slot's does not matter
    active.correct(left)
    active.settle()
    assert_solved(active, gram, b, support)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(m=strategies.integers(1, 12), panel=PANELS, ridge=strategies.sampled_from([0.0, 0.5]), seed=SEEDS)
def test_from_inverse_goes_on_from_weights_to_those_of_a_factor_that_is_there_already(m, panel, ridge, seed):
    gram, b = problem(seed, m, m + 3, ridge)
    weights = np.random.default_rng(seed + 1).random(m)
    given_weights = weights.copy()
    inverse = np.linalg.inv(np.linalg.cholesky(gram))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PANEL", panel)
        active = ActiveSet.from_inverse(inverse, weights, np.linalg.solve(gram, b))
        assert active.slots.tolist() == list(range(m)) and np.array_equal(active.weights, weights)
        gone = active.settle()
    support, wanted = walked(gram, b, range(m), weights)
    assert sorted(gone) == [i for i in range(m) if i not in support]
    assert_solved(active, gram, b, support)
    np.testing.assert_allclose(active.weights, wanted, rtol=1e-7, atol=1e-9)
    assert np.array_equal(weights, given_weights)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    steps=strategies.lists(strategies.tuples(strategies.booleans(), strategies.integers(0, 11)), max_size=25),
    panel=PANELS,
    seed=SEEDS,
)
def test_a_join_that_is_undone_leaves_no_trace(steps, panel, seed):
    gram, b = problem(seed, 12, 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PANEL", panel)
        active, support = ActiveSet(12, nonnegative=False), []
        for leaves, i in steps:
            if leaves and support:
                active._remove(active.slots[i % len(support)])
                support.pop(i % len(support))
            elif i not in support:
                before = active.weights.copy()
                assert join(active, gram, b, i)
                if i % 3 == 0:
                    active.settle()
                    active.undo_join(before)
                    assert_solved(active, gram, b, support)
                    assert join(active, gram, b, i)
                support.append(i)
                assert active.members[active.newest] == i
            active.settle()
            assert active.size == len(support)
            assert_solved(active, gram, b, support)


def test_an_undone_join_never_makes_the_slots_fewer_than_the_weights_noted_before_it():
    """A join into a free slot at the end, above one that a step before it noted the weights of: that crashed a leap."""
    gram, b = problem(0, 8, 24)
    active = ActiveSet(8, nonnegative=False)
    for i in range(5):
        join(active, gram, b, i)
        active.settle()
    active._remove(1)
    active._remove(4)
    active.settle()
    join(active, gram, b, 5)
    active.settle()
    noted, slots = active.weights.copy(), active.high
    join(active, gram, b, 6)
    assert active.members[4] == 6
    active.undo_join(noted)
    assert active.high >= slots and np.array_equal(active.weights, noted)
    assert_solved(active, gram, b, [0, 2, 3, 5])


def test_has_rows_to_drop_says_whether_a_refit_turns_a_weight_negative():
    gram, b = problem(0, 3, 9)
    b = np.abs(b)
    for nonnegative in (True, False):
        active, goal = ActiveSet(3, nonnegative=nonnegative), b.copy()
        assert not active.has_rows_to_drop() and join(active, gram, goal, 0) and not active.has_rows_to_drop()
        active.settle()
        goal[1] = gram[1, 0] * active.weights[0] - 1
        assert join(active, gram, goal, 1) and active.has_rows_to_drop() == nonnegative
        active.settle()
        assert not active.has_rows_to_drop() and active.size == (1 if nonnegative else 2)
