"""Facility location, with a matrix and without, exact and stochastic, against sums written out."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies

from advcore.errors import ConfigError
from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows
from advcore.rows import pairwise as pairs
from advcore.solvers.craig import DISTANCES, Craig
from advcore.solvers.location import locate, locate_tiled, locate_with_submodlib

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SEEDS = strategies.integers(0, 10**6)
each_device = pytest.mark.parametrize("device", DEVICES)


def tiled(similarity, k, *, batch=4, sample=None):
    """`locate` without a matrix, from one."""
    matrix = torch.from_numpy(similarity).double()
    return locate_tiled(lambda rows: matrix[rows], matrix.sum(1), k, batch=batch, sample=sample)


each_way = pytest.mark.parametrize("way", [locate, tiled])


def points(n, seed, width=4):
    """A third in clusters of spread 1e-3, a third copies of others, the rest anywhere."""
    rng = np.random.default_rng(seed)
    free = rng.normal(size=(n - 2 * (n // 3), width))
    near = free[rng.integers(0, min(5, len(free)), n // 3)] + 1e-3 * rng.normal(size=(n // 3, width))
    copies = np.concatenate([free, near])[rng.integers(0, n - n // 3, n // 3)]
    return rng.permutation(np.concatenate([free, near, copies]))


def similarity_of(matrix):
    distance = np.linalg.norm(matrix[:, None] - matrix[None], axis=2)
    return distance.max() - distance


def value(similarity, picks):
    return similarity[:, list(picks)].max(1).sum() if len(picks) else 0.0


def optimum(similarity, k):
    return max(value(similarity, picks) for picks in itertools.combinations(range(len(similarity)), k))


def naive_greedy(similarity, k):
    picks = []
    for _ in range(k):
        rest = [i for i in range(len(similarity)) if i not in picks]
        picks.append(max(rest, key=lambda i: value(similarity, [*picks, i])))
    return picks


def assert_each_pick_gains_most(similarity, picks, gains, rel=1e-6):
    """F1: within `rel` of the best, in float64, at every step; similarities as they are stored."""
    similarity, left = similarity.astype(np.float64), np.ones(len(similarity), dtype=bool)
    covered, least = np.zeros(len(similarity)), 1e-12 * similarity.sum(1).max()
    for pick, gain in zip(picks, gains, strict=True):
        slow = np.maximum(similarity - covered, 0).sum(1)
        assert left[pick]
        assert slow[pick] == pytest.approx(slow[left].max(), rel=rel, abs=least)
        assert gain == pytest.approx(slow[pick], rel=rel, abs=least)
        covered, left[pick] = np.maximum(covered, similarity[pick]), False


def slow_sizes(similarity, picks):
    """How many rows a pick is nearest to; ties go to the earlier pick, a pick is its own."""
    nearest = similarity[picks].argmax(0)  # the first of the largest
    nearest[picks] = np.arange(len(picks))
    return np.bincount(nearest, minlength=len(picks)).tolist()


def stream(n, seed=0):
    return Stream(seed=seed, purpose="solver").at(torch.arange(n))


def solve(rows, k, *, seed=0, **changes):
    device = rows.device
    return Craig(**changes)(
        rows, k, generator=Stream(seed=seed, purpose="solver").at(torch.arange(len(rows)).to(device))
    )


def factored(n, seed=0, scale=1.0, copies=True):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, width, generator=generator) for width in (3, 3, 6, 6)]
    rows = FactoredRows(residuals=tuple(part * scale for part in parts[:2]), features=tuple(parts[2:]))
    return rows.take(torch.randint(n, (n,), generator=generator)) if copies else rows


@pytest.mark.case("F1")
@each_way
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", range(3))
def test_each_pick_gains_most_until_late_among_duplicates_and_clusters(way, dtype, seed):
    similarity = similarity_of(points(150, seed)).astype(dtype)
    found = way(similarity, 150)
    assert 75 < len(found.picks) <= 110
    assert_each_pick_gains_most(similarity, found.picks, found.gains)
    assert found.cluster_sizes().tolist() == slow_sizes(similarity, found.picks)
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(found.gains))


@pytest.mark.case("F1")
@each_way
@settings(deadline=None, derandomize=True, max_examples=40)
@given(n=strategies.integers(3, 10), share=strategies.floats(0.05, 1), seed=SEEDS)
def test_the_value_is_naive_greedys_and_within_1_minus_1_over_e_of_the_optimum(way, n, share, seed):
    similarity, k = similarity_of(points(n, seed, width=2)), max(1, round(share * n))
    found = way(similarity, k)
    reached = value(similarity, found.picks)
    assert reached == pytest.approx(value(similarity, naive_greedy(similarity, k)), rel=1e-9)
    assert reached >= (1 - 1 / math.e) * optimum(similarity, k)
    assert_each_pick_gains_most(similarity, found.picks, found.gains)
    assert found.cluster_sizes().tolist() == slow_sizes(similarity, found.picks)


@pytest.mark.case("F1")
@settings(deadline=None, derandomize=True, max_examples=25)
@given(n=strategies.integers(2, 80), batch=strategies.sampled_from([1, 7, 64]), seed=SEEDS)
def test_both_ways_pick_the_same(n, batch, seed):
    similarity = similarity_of(points(n, seed))
    held, free = locate(similarity, n), tiled(similarity, n, batch=batch)
    assert held.picks == free.picks and np.array_equal(held.nearest, free.nearest)
    np.testing.assert_allclose(held.gains, free.gains, rtol=1e-9, atol=1e-12 * held.gains[0])


@each_way
def test_it_does_not_write_on_the_similarities(way):
    similarity = similarity_of(points(60, 0))
    before = similarity.copy()
    way(similarity, 30)
    assert np.array_equal(similarity, before)


@each_way
@settings(deadline=None, derandomize=True, max_examples=40)
@given(n=strategies.integers(2, 60), size=strategies.integers(1, 20), seed=SEEDS)
def test_each_pick_is_the_best_of_the_rows_drawn_for_it(way, n, size, seed):
    similarity, rng, drawn, left = similarity_of(points(n, seed)), np.random.default_rng(seed), [], []

    def sample(step, rows):
        assert step == len(drawn)
        left.append(rows.tolist())
        drawn.append(np.sort(rng.permutation(rows)[:size]))
        return drawn[-1]

    found = way(similarity, n, sample=sample)
    for step, rows in enumerate(left):
        assert rows == [i for i in range(n) if i not in found.picks[:step]]
    covered, least = np.zeros(n), 1e-12 * similarity.sum(1).max()
    for pick, gain, rows in zip(found.picks, found.gains, drawn, strict=False):
        slow = np.maximum(similarity - covered, 0).sum(1)
        rows = rows if slow[rows].max() > least else np.arange(n)  # all that are left, if none of them gains anything
        assert pick in rows
        assert slow[pick] == pytest.approx(slow[rows].max(), rel=1e-6, abs=least)
        assert gain == pytest.approx(slow[pick], rel=1e-6, abs=least)
        covered = np.maximum(covered, similarity[pick])
    assert len(set(found.picks)) == len(found.picks)
    assert found.cluster_sizes().tolist() == slow_sizes(similarity, found.picks)


@pytest.mark.parametrize("matrix", ["held", "free"])
@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_a_stochastic_step_looks_at_n_over_k_ln_1_over_epsilon_rows(matrix, epsilon, monkeypatch):
    rows, sizes, own = factored(100, copies=False), [], Craig._sample

    def counted(*arguments):
        draw = own(*arguments)

        def count(step, left):
            drawn = draw(step, left)
            sizes.append((len(drawn), len(left)))
            assert np.isin(drawn, left).all() and len(set(drawn.tolist())) == len(drawn)
            return drawn

        return count

    monkeypatch.setattr(Craig, "_sample", counted)
    found = solve(rows, 20, epsilon=epsilon, matrix=matrix)
    size = math.ceil(100 / 20 * math.log(1 / epsilon))
    assert sizes == [(min(size, 100 - step), 100 - step) for step in range(20)]
    assert len(set(found.indices.tolist())) == 20 and found.weights.sum() == 100


@pytest.mark.parametrize("matrix", ["held", "free"])
def test_the_expected_value_is_within_1_minus_1_over_e_minus_epsilon_of_the_optimum(matrix):
    for epsilon, k in ((0.1, 2), (0.3, 3), (0.6, 4)):
        rows = DenseRows(matrix=torch.from_numpy(points(9, k, width=2)))
        similarity = similarity_of(rows.matrix.numpy())
        reached = [
            value(similarity, solve(rows, k, seed=seed, epsilon=epsilon, matrix=matrix).indices.tolist())
            for seed in range(40)
        ]
        assert np.mean(reached) >= (1 - 1 / math.e - epsilon) * optimum(similarity, k)


@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_stochastic_greedy_is_close_to_exact_greedy_on_more_rows(epsilon):
    rows = factored(200, copies=False)
    similarity = similarity_of(rows.dense().numpy())
    exact = value(similarity, solve(rows, 20).indices.tolist())
    reached = [value(similarity, solve(rows, 20, seed=seed, epsilon=epsilon).indices.tolist()) for seed in range(8)]
    assert 0.98 * exact <= np.mean(reached) <= 1.005 * exact


def test_stochastic_greedy_is_seeded_and_an_epsilon_near_nothing_is_exact_greedy():
    rows = factored(60)
    picks = [tuple(solve(rows, 10, seed=seed, epsilon=0.2).indices.tolist()) for seed in range(6)]
    assert len(set(picks)) == 6
    assert picks == [tuple(solve(rows, 10, seed=seed, epsilon=0.2).indices.tolist()) for seed in range(6)]
    exact, nearly = solve(rows, 10), solve(rows, 10, epsilon=1e-9)
    assert torch.equal(exact.indices, nearly.indices) and torch.equal(exact.weights, nearly.weights)


@pytest.mark.case("F1")
@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("epsilon", [None, 0.2])
def test_without_the_matrix_it_picks_the_same(kind, scale, epsilon):
    for seed, n in enumerate((1, 2, 20, 70)):  # the last in more than one batch of rows
        rows = factored(n, seed, scale)
        for k in {1, max(1, n // 5), n}:
            held, free = (solve(rows, k, distance=kind, epsilon=epsilon, matrix=way) for way in ("held", "free"))
            assert torch.equal(held.indices, free.indices) and torch.equal(held.weights, free.weights)
            assert held.info["stopped"] == free.info["stopped"]
            np.testing.assert_allclose(held.info["gains"], free.info["gains"], rtol=1e-6)


@pytest.mark.case("F3")
def test_without_the_matrix_equal_rows_are_no_gain():
    rows = DenseRows(matrix=(torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) + 22).repeat(5, 1))
    for matrix in ("held", "free"):
        found = solve(rows, 30, matrix=matrix)
        assert found.info["stopped"] == "no gain"
        assert sorted(i % 6 for i in found.indices.tolist()) == list(range(6)) and found.weights.tolist() == [5] * 6


@pytest.mark.case("F1")
def test_a_matrix_stored_in_float32_reaches_the_same_value(monkeypatch):
    rows = factored(250)
    exact, similarity = solve(rows, 60), similarity_of(rows.dense().numpy())
    monkeypatch.setattr(pairs, "EXACT_UP_TO", 10)
    found = solve(rows, 60)
    reached = [value(similarity, one.indices.tolist()) for one in (found, exact)]
    assert reached[0] == pytest.approx(reached[1], rel=1e-6)
    assert found.weights.sum() == 250 and len(found.indices) == 60


@pytest.mark.case("F1", "F3")
@each_device
@pytest.mark.parametrize("matrix", ["held", "free"])
@pytest.mark.parametrize("kind", DISTANCES)
def test_gains_and_weights_hold_on_any_device(device, matrix, kind):
    for seed in range(3):
        here = factored(80, seed)
        there = FactoredRows(
            residuals=tuple(part.to(device) for part in here.residuals),
            features=tuple(part.to(device) for part in here.features),
        )
        found = solve(there, 80, matrix=matrix, distance=kind)
        assert found.indices.device.type == found.weights.device.type == device
        written = here.dense().numpy()
        distance = np.linalg.norm(written[:, None] - written[None], axis=2)
        distance = distance**2 if kind == "squared" else distance
        similarity, picks = distance.max() - distance, found.indices.tolist()
        assert_each_pick_gains_most(similarity, picks, found.info["gains"])
        weights = found.weights.tolist()
        assert sum(weights) == 80 and all(own >= 1 and own == int(own) for own in weights)
        assert found.info["stopped"] == "no gain" and weights == slow_sizes(similarity, picks)


def small_cases():
    for seed in range(20):
        n = 3 + seed % 8
        yield n, 1 + seed % n, points(n, seed, width=2)


@pytest.mark.case("F1")
@each_device
@pytest.mark.parametrize("matrix", ["held", "free"])
def test_the_bound_holds_on_any_device(device, matrix):
    for _, k, written in small_cases():
        found = solve(DenseRows(matrix=torch.from_numpy(written).to(device)), k, matrix=matrix)
        similarity = similarity_of(written)
        assert value(similarity, found.indices.tolist()) >= (1 - 1 / math.e) * optimum(similarity, k)


@pytest.fixture
def submodlib():
    return pytest.importorskip("submodlib", reason="needs the package submodlib-py")


quiet = pytest.mark.filterwarnings("ignore:Please import `csr_matrix`:DeprecationWarning")


@quiet
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("kind", DISTANCES)
def test_submodlib_reaches_the_same_value_whatever_the_rows_scale(submodlib, kind, scale):
    for seed in range(6):
        rows = factored(60, seed, scale, copies=False)
        similarity = similarity_of(rows.dense().numpy())
        ours, theirs = (solve(rows, 15, distance=kind, backend=backend) for backend in ("advcore", "submodlib"))
        if kind == "squared":
            distance = (similarity.max() - similarity) ** 2
            similarity = distance.max() - distance
        reached = [value(similarity, found.indices.tolist()) for found in (theirs, ours)]
        if seed % 2:  # the others have exact ties, from which greedy goes on to other values
            assert reached[0] == pytest.approx(reached[1], rel=1e-5)
        assert_each_pick_gains_most(similarity, theirs.indices.tolist(), theirs.info["gains"], rel=1e-5)
        assert len(theirs.indices) == 15 and theirs.info["stopped"] == "budget"
        assert theirs.weights.tolist() == slow_sizes(similarity, theirs.indices.tolist())
        assert sum(theirs.info["gains"]) == pytest.approx(reached[0], rel=1e-6)


@quiet
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_submodlib_stops_at_zero_gain_with_one_pick_of_each_set_of_equal_rows(submodlib, scale):
    matrix = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).repeat(4, 1) * scale
    for k in (28, 20, 7):
        found = solve(DenseRows(matrix=matrix), k, backend="submodlib")
        assert sorted(i % 7 for i in found.indices.tolist()) == list(range(7)) and found.weights.tolist() == [4] * 7
        assert found.info["stopped"] == ("budget" if k == 7 else "no gain")


@quiet
def test_submodlib_picks_all_of_a_few_rows(submodlib):
    for n in (1, 2, 5):
        similarity = similarity_of(np.random.default_rng(n).normal(size=(n, 3))) + 0.1
        found = locate_with_submodlib(similarity, n)
        assert sorted(found.picks) == list(range(n)) and found.cluster_sizes().tolist() == [1] * n


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epsilon": 0}, r"epsilon must be in \(0, 1\), got 0;"),
        ({"epsilon": 1}, r"epsilon .* got 1;"),
        ({"epsilon": 1.5}, r"epsilon .* got 1\.5;"),
        ({"epsilon": -0.1}, r"epsilon .* got -0\.1;"),
        ({"epsilon": float("nan")}, r"epsilon .* got nan;"),
        ({"backend": "submodlib", "matrix": "free"}, "matrix .*submodlib, got 'free'"),
        ({"backend": "submodlib", "epsilon": 0.1}, "epsilon .*submodlib, got 0.1"),
        ({"backend": "submodlip"}, "'submodlip'.*'submodlib'"),
        ({"matrix": "hold"}, "'hold'.*'held'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        Craig(**changes)
