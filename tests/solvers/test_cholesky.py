"""The Cholesky factor that atoms join and leave, against refactoring from scratch."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from advcore.solvers.cholesky import Cholesky


def gram_of(seed, n, width, ridge=0.0):
    atoms = np.random.default_rng(seed).normal(size=(n, width))
    return atoms @ atoms.T + ridge * np.eye(n)


def assert_factors(factor, gram, support, b):
    own = gram[np.ix_(support, support)]
    lower = factor._factor[: factor.size, : factor.size]
    assert factor.size == len(support)
    np.testing.assert_allclose(lower, np.linalg.cholesky(own), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(factor.solve(b[support]), np.linalg.solve(own, b[support]), rtol=1e-6, atol=1e-9)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    steps=strategies.lists(strategies.tuples(strategies.booleans(), strategies.integers(0, 11)), max_size=40),
    ridge=strategies.sampled_from([0.0, 0.5]),
    seed=strategies.integers(0, 10**6),
)
def test_any_sequence_of_joins_and_leaves_solves_as_from_scratch(steps, ridge, seed):
    gram, b = gram_of(seed, 12, 24, ridge), np.random.default_rng(seed + 1).normal(size=12)
    factor, support = Cholesky(12), []
    for leaves, i in steps:
        if leaves and support:
            factor.remove(i % len(support))
            support.pop(i % len(support))
        elif i not in support:
            assert factor.append(gram[i, support], gram[i, i])
            support.append(i)
        assert_factors(factor, gram, support, b)


def test_hundreds_of_joins_and_leaves_do_not_wear_it_out():
    gram, rng = gram_of(0, 40, 50), np.random.default_rng(1)
    factor, support = Cholesky(30), []
    for _ in range(600):
        if len(support) == 30 or (support and rng.random() < 0.45):
            p = int(rng.integers(len(support)))
            factor.remove(p)
            support.pop(p)
        else:
            i = int(rng.choice([i for i in range(40) if i not in support]))
            assert factor.append(gram[i, support], gram[i, i])
            support.append(i)
    assert len(support) > 5
    assert_factors(factor, gram, support, rng.normal(size=40))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_dependent_atom_is_refused_and_nothing_changes(scale):
    atoms = np.random.default_rng(0).normal(size=(4, 9))
    atoms = np.concatenate([atoms, [atoms[0] - 2 * atoms[2]], [np.zeros(9)], atoms[1:2]]) * scale
    gram, b = atoms @ atoms.T, atoms @ np.ones(9)
    factor, support = Cholesky(7), [0, 1, 2]
    for m, i in enumerate(support):
        assert factor.append(gram[i, support[:m]], gram[i, i])
    before = factor.solve(b[support])
    for i in (4, 5, 6):
        assert not factor.append(gram[i, support], gram[i, i])
        assert factor.size == 3 and np.array_equal(factor.solve(b[support]), before)
    assert factor.append(gram[3, support], gram[3, 3])


def test_a_dependent_atom_may_join_under_a_ridge():
    gram = np.ones((2, 2))
    factor = Cholesky(2)
    assert factor.append(gram[0, []], gram[0, 0] + 0.5) and factor.append(gram[1, [0]], gram[1, 1] + 0.5)
    np.testing.assert_allclose(factor.solve(np.ones(2)), [0.4, 0.4])  # (1 + ridge) w + w = 1
