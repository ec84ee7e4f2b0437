"""GradMatch against scikit-learn, scipy and planted truth."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from scipy.optimize import nnls
from sklearn.linear_model import orthogonal_mp

from advcore.errors import ConfigError, DataError
from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows
from advcore.rows import pairwise as pairs
from advcore.solvers.base import Task
from advcore.solvers.craig import Craig
from advcore.solvers.gradmatch import GradMatch

SEEDS = strategies.integers(0, 10**6)
a_few = settings(deadline=None, derandomize=True, max_examples=40)


def stream(n, seed=0):
    return Stream(seed=seed, purpose="solver").at(torch.arange(n))


def solve(rows, k, *, target=None, seed=0, **changes):
    return GradMatch(**changes)(rows, k, target=target, generator=stream(len(rows), seed))


def once(rows, k, *, target=None, **changes):
    """One round of plain pursuit, to its end."""
    return solve(rows, k, target=target, **({"fill": "none", "tolerance": 0.0} | changes))


def gradient_like(n, seed=0, width=12):
    """Rows as a head gives them: residuals of three classes times non-negative features, two passes."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, n, 3, generator=generator)
    labels = torch.nn.functional.one_hot(torch.arange(n) % 3, 3)
    features = torch.rand(2, n, width, generator=generator)
    return FactoredRows(residuals=tuple(logits.softmax(2) - labels), features=tuple(features))


def gaussian(n, width, seed=0, dtype=torch.float64):
    return DenseRows(matrix=torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def low_rank(n=30, rank=4, seed=0):
    """Rows with positive entries in `rank` dimensions: `rank` of them or fewer give any sum of them."""
    generator = torch.Generator().manual_seed(seed)
    weights, basis = torch.rand(n, rank, generator=generator), torch.rand(rank, 20, generator=generator)
    return DenseRows(matrix=weights.double() @ basis.double())


def written(rows, target=None):
    """The rows (N, F) and what they are to stand for (F,), in numpy."""
    total = rows.total() if target is None else target
    return rows.dense().numpy(), total.flatten().double().numpy()


def extended(matrix, target, ridge):
    """Rows extended by sqrt(ridge) I, the target by zeros: ridge regression as plain least squares."""
    n = len(matrix)
    return np.concatenate([matrix, np.sqrt(ridge) * np.eye(n)], axis=1), np.concatenate([target, np.zeros(n)])


def absolute(matrix, ridge):
    return ridge * np.square(matrix).sum(1).mean()


def relative_error(rows, selection):
    total = rows.total()
    return float((rows.combine(selection.indices, selection.weights) - total).norm() / total.norm())


@pytest.mark.case("F4")
@a_few
@given(n=strategies.integers(8, 40), k=strategies.integers(1, 8), seed=SEEDS)
def test_unconstrained_without_ridge_it_is_scikit_learns_omp(n, k, seed):
    rows = gaussian(n, 20, seed)
    matrix, target = written(rows)
    found = once(rows, k, ridge=0.0, nonnegative=False)
    theirs = orthogonal_mp(matrix.T, target, n_nonzero_coefs=k)
    ours = np.zeros(n)
    ours[found.indices.numpy()] = found.weights.numpy()
    assert set(np.flatnonzero(theirs)) == set(found.indices.tolist())
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.case("F4")
@a_few
@given(
    ridge=strategies.sampled_from([0.0, 0.02, 0.5]),
    width=strategies.sampled_from([4, 12]),
    k=strategies.integers(1, 15),
    seed=SEEDS,
)
def test_non_negative_weights_are_nnls_on_the_support(ridge, width, k, seed):
    rows = gradient_like(30, seed, width)
    matrix, target = written(rows)
    found = once(rows, k, ridge=ridge)
    matrix, target = extended(matrix, target, absolute(matrix, ridge))
    weights, _ = nnls(matrix[found.indices.numpy()].T, target)
    assert len(found.indices) and (found.weights > 0).all()
    np.testing.assert_allclose(found.weights, weights, rtol=1e-6, atol=1e-9)


@pytest.mark.case("F4")
@a_few
@given(ridge=strategies.sampled_from([0.0, 0.02, 0.5]), k=strategies.integers(1, 12), seed=SEEDS)
def test_any_sign_weights_are_least_squares_on_the_support(ridge, k, seed):
    rows = gradient_like(30, seed)
    matrix, target = written(rows)
    found = once(rows, k, ridge=ridge, nonnegative=False)
    matrix, target = extended(matrix, target, absolute(matrix, ridge))
    weights = np.linalg.lstsq(matrix[found.indices.numpy()].T, target, rcond=None)[0]
    assert len(found.indices) == k
    np.testing.assert_allclose(found.weights, weights, rtol=1e-6, atol=1e-9)


@pytest.mark.case("F4")
@a_few
@given(ridge=strategies.sampled_from([0.0, 0.001, 0.02]), seed=SEEDS)
def test_a_pursuit_without_a_count_ends_at_the_best_non_negative_weights_of_all(ridge, seed):
    rows = DenseRows(matrix=gaussian(60, 20, seed).matrix + 0.3)
    goal = torch.randn(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.3
    matrix, target = extended(*written(rows, goal), absolute(rows.dense().numpy(), ridge))
    found = once(rows, 60, target=goal, ridge=ridge)
    residual = found.weights.numpy() @ matrix[found.indices.numpy()] - target
    assert np.linalg.norm(residual) == pytest.approx(nnls(matrix.T, target)[1], rel=1e-6, abs=1e-6)


@pytest.mark.case("F4")
def test_rows_do_leave_the_support():
    """Without this the tests above would not reach the walk back to the first weight of 0."""
    left = 0
    for seed in range(12):
        rows = gradient_like(30, seed, width=4)
        supports = [set(once(rows, k, ridge=0.0).indices.tolist()) for k in range(1, 13)]
        left += sum(not smaller <= larger for smaller, larger in itertools.pairwise(supports))
    assert left >= 3


@pytest.mark.case("F4")
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_each_pick_correlates_most_with_the_residual_of_a_slow_refit(nonnegative, ridge):
    grown = 0
    for seed in range(10):
        rows = gradient_like(25, seed)
        matrix, target = written(rows)
        longer, goal = extended(matrix, target, absolute(matrix, ridge))
        picks = []
        for k in range(1, 9):
            now = once(rows, k, ridge=ridge, nonnegative=nonnegative).indices.tolist()
            if now[:-1] == picks and len(now) == k:  # a row that left in between makes another path
                refit = nnls if nonnegative else np.linalg.lstsq
                weights = refit(longer[picks].T, goal)[0] if picks else np.zeros(0)
                score = matrix @ (target - weights @ matrix[picks])
                score = score if nonnegative else np.abs(score)
                score[picks] = -np.inf
                grown += 1
                assert now[-1] == int(np.argmax(score))
            picks = now
    assert grown > 40


@pytest.mark.case("F4")
@a_few
@given(ridge=strategies.sampled_from([0.0, 0.02, 0.5]), nonnegative=strategies.booleans(), seed=SEEDS)
def test_the_residual_path_ends_at_the_real_error_and_without_ridge_never_rises(ridge, nonnegative, seed):
    rows = gradient_like(30, seed)
    found = once(rows, 15, ridge=ridge, nonnegative=nonnegative)
    path = found.info["residuals"]
    assert ridge or all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise([1.0, *path]))
    assert path[-1] == pytest.approx(relative_error(rows, found), rel=1e-6, abs=1e-7)


@pytest.mark.case("F4")
@settings(deadline=None, derandomize=True, max_examples=12)
@given(seed=SEEDS)
def test_with_ridge_the_penalised_residual_never_rises(seed):
    rows = gradient_like(25, seed)
    matrix, target = written(rows)
    matrix, target = extended(matrix, target, absolute(matrix, 0.1))
    supports = [once(rows, k, ridge=0.1) for k in range(1, 15)]
    errors = [np.linalg.norm(found.weights.numpy() @ matrix[found.indices.numpy()] - target) for found in supports]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(errors))


@pytest.mark.case("F4")
@a_few
@given(ridge=strategies.sampled_from([0.0, 0.02]), nonnegative=strategies.booleans(), seed=SEEDS)
def test_the_residual_is_orthogonal_to_the_rows_in_use_and_no_row_outside_improves(ridge, nonnegative, seed):
    rows = gradient_like(40, seed)
    matrix, target = written(rows)
    matrix, target = extended(matrix, target, absolute(matrix, ridge))
    found = once(rows, 10, ridge=ridge, nonnegative=nonnegative)
    residual = target - found.weights.numpy() @ matrix[found.indices.numpy()]
    cosines = matrix @ residual / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(residual))
    assert np.abs(cosines[found.indices.numpy()]).max() <= 1e-4
    if len(found.indices) < 10:
        assert np.delete(cosines, found.indices.numpy()).max() <= 1e-4


@pytest.mark.case("F4", "F5")
@pytest.mark.parametrize("way", ["held", "held, as of many rows", "free"])
@settings(deadline=None, derandomize=True, max_examples=15)
@given(
    copies=strategies.lists(strategies.integers(0, 8), min_size=2, max_size=20),
    scale=strategies.sampled_from([1.0, 1e-30, 1e30, 0.3]),
    ridge=strategies.sampled_from([0.0, 0.02, 0.5]),
    nonnegative=strategies.booleans(),
    other_target=strategies.booleans(),
    seed=SEEDS,
)
def test_among_copies_and_zero_rows_of_any_scale_weights_are_the_best_on_the_support(
    way, copies, scale, ridge, nonnegative, other_target, seed
):
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(9, 6, generator=draw)
    matrix[0] = 0
    matrix, goal = matrix[copies].double(), torch.randn(6, generator=draw, dtype=torch.float64)
    rows = DenseRows(matrix=matrix * scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "EXACT_UP_TO", 0 if "many" in way else 2048)
        how = {"ridge": ridge, "nonnegative": nonnegative, "matrix": way.split(",")[0]}
        found = once(rows, len(copies), target=goal * scale if other_target else None, **how)
    goal = (goal if other_target else matrix.sum(0)).numpy()
    support, weights = found.indices.numpy(), found.weights.numpy()
    assert len(set(support.tolist())) == len(support) and np.isfinite(weights).all()
    assert not nonnegative or (weights > 0).all()
    longer, goal = extended(matrix.numpy(), goal, absolute(matrix.numpy(), ridge))
    atoms = longer[support].T
    best = nnls(atoms, goal)[0] if nonnegative and len(support) else np.linalg.lstsq(atoms, goal, rcond=None)[0]
    size = np.linalg.norm(goal)
    left, least = (np.linalg.norm(atoms @ w - goal) for w in (weights, best))
    assert left == pytest.approx(least, rel=1e-6, abs=1e-6 * size)
    cosines = (goal - atoms @ weights) @ atoms / (np.linalg.norm(atoms, axis=0) * max(size, 1e-300))
    assert np.abs(cosines[weights != 0]).max(initial=0) <= 1e-4
    path = found.info["residuals"]
    assert ridge or all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise([1.0, *path]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_planted_truth_is_recovered(nonnegative, dtype):
    for seed in range(8):
        rows = gaussian(60, 300, seed, dtype)
        generator = torch.Generator().manual_seed(1000 + seed)
        planted = torch.randperm(60, generator=generator)[:8]
        truth = 1 + 2 * torch.rand(8, generator=generator, dtype=torch.float64)
        if not nonnegative:
            truth[::2] *= -1
        found = once(rows, 8, target=rows.combine(planted, truth), ridge=0.0, nonnegative=nonnegative)
        order = found.indices.argsort()
        assert torch.equal(found.indices[order], planted.sort().values)
        torch.testing.assert_close(found.weights[order], truth[planted.argsort()], rtol=1e-8, atol=1e-8)
        assert found.info["residuals"][-1] < 1e-6


def test_a_pursuit_ends_at_the_tolerance_and_not_before():
    path = once(gradient_like(40), 20, ridge=0.0).info["residuals"]
    tolerance = path[6]
    found = once(gradient_like(40), 20, ridge=0.0, tolerance=tolerance)
    assert found.info["residuals"] == path[:7] and found.info["stopped"] == "tolerance"


@a_few
@given(
    scale=strategies.sampled_from([1e-6, 1e-2, 1e5]),
    ridge=strategies.sampled_from([0.0, 0.02, 1.0]),
    seed=SEEDS,
)
def test_ridge_has_no_unit(scale, ridge, seed):
    rows = gaussian(25, 15, seed)
    plain, scaled = solve(rows, 9, ridge=ridge), solve(DenseRows(matrix=rows.matrix * scale), 9, ridge=ridge)
    assert torch.equal(plain.indices, scaled.indices)
    torch.testing.assert_close(plain.weights, scaled.weights, rtol=1e-6, atol=1e-9)


def test_more_ridge_means_smaller_weights():
    norms = [float(once(gradient_like(40), 10, ridge=ridge).weights.norm()) for ridge in (0.0, 0.02, 0.5, 5.0)]
    assert norms == sorted(norms, reverse=True) and norms[-1] < 0.9 * norms[0]


def test_weights_are_coefficients_of_the_target_given():
    rows, some = gaussian(25, 40), torch.arange(6)
    plain, tripled = solve(rows, 5, target=rows.total(some)), solve(rows, 5, target=3 * rows.total(some))
    assert torch.equal(plain.indices, tripled.indices) and set(plain.indices.tolist()) <= set(some.tolist())
    torch.testing.assert_close(3 * plain.weights, tripled.weights)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("k", [4, 12, 30])
def test_without_ridge_its_gradient_error_is_below_craigs(k, seed):
    rows = gradient_like(60, seed)
    gradmatch, craig = solve(rows, k, ridge=0.0), Craig()(rows, k, generator=stream(60))
    assert len(gradmatch.indices) == len(craig.indices) == k
    assert relative_error(rows, gradmatch) < relative_error(rows, craig)


@pytest.mark.parametrize("seed", range(5))
def test_a_shortfall_is_met_by_rounds_averaged_by_their_counts(seed):
    rows, k = low_rank(seed=seed), 15
    supports, weights, rest = [], [], torch.arange(len(rows))
    while sum(map(len, supports)) < k:
        one = solve(rows.take(rest), k - sum(map(len, supports)), target=rows.total(), ridge=0.0, fill="none")
        supports.append(rest[one.indices])
        weights.append(one.weights)
        rest = torch.tensor([i for i in rest.tolist() if i not in supports[-1].tolist()])
    found = solve(rows, k, ridge=0.0)
    assert found.info["rounds"] == len(supports) > 3
    assert (found.info["filled"], found.info["stopped"]) == (0, "budget")
    assert torch.equal(found.indices, torch.cat(supports))
    averaged = torch.cat([w * len(w) / k for w in weights])
    torch.testing.assert_close(found.weights, averaged)
    assert relative_error(rows, found) < 0.2


def test_equal_rounds_share_the_target_equally():
    """Three copies of an orthogonal set: each round is one copy, so each weight is a third of 3."""
    rows = DenseRows(matrix=torch.eye(4).repeat(3, 1))
    found = solve(rows, 12, ridge=0.0)
    assert found.info["rounds"] == 3
    assert sorted(found.indices.tolist()) == list(range(12))
    torch.testing.assert_close(found.weights, torch.ones(12, dtype=torch.float64))


def test_fill_random_adds_rows_of_weight_one_and_says_how_many():
    rows, k = low_rank(), 15
    short = solve(rows, k, ridge=0.0, fill="none")
    found = solve(rows, k, ridge=0.0, fill="random")
    m = len(short.indices)
    assert m < k and found.info["filled"] == k - m and found.info["rounds"] == 1
    assert torch.equal(found.indices[:m], short.indices) and torch.equal(found.weights[:m], short.weights)
    assert found.weights[m:].tolist() == [1.0] * (k - m)
    assert found.info["stopped"] != "budget"
    others = {tuple(solve(rows, k, ridge=0.0, fill="random", seed=seed).indices.tolist()) for seed in range(10)}
    assert len(others) == 10


def test_fill_none_returns_fewer_and_says_why():
    found = solve(low_rank(), 15, ridge=0.0, fill="none")
    assert 1 <= len(found.indices) <= 4
    assert (found.info["stopped"], found.info["rounds"], found.info["filled"]) == ("tolerance", 1, 0)


def test_rounds_that_run_dry_return_fewer_and_give_the_last_ones_reason():
    line = torch.tensor([3.0, 2.0, 1.0, -1.0, -2.0, 0.5])
    found = solve(DenseRows(matrix=line[:, None] * torch.ones(1, 3)), 6, ridge=0.0)
    assert found.indices.tolist() == [0, 1, 2, 5] and found.info["rounds"] == 4  # the others point away
    assert found.info["stopped"] == "no row correlates with the residual"


@pytest.mark.case("F5")
@pytest.mark.parametrize("changes", [{}, {"fill": "none"}, {"nonnegative": False}, {"ridge": 0.0}])
def test_a_zero_target_returns_nothing_and_says_why(changes):
    rows = gaussian(10, 6)
    found = solve(rows, 4, target=torch.zeros(6), **changes)
    assert len(found.indices) == len(found.weights) == 0
    assert found.info["stopped"] == "no row correlates with the residual" and found.info["residuals"] == []


@pytest.mark.case("F5")
@pytest.mark.parametrize("n", [3, 20, 50])
def test_rows_that_cancel_are_a_zero_target_whatever_rounding_leaves(n):
    generator = torch.Generator().manual_seed(n)
    matrix = torch.randn(n, 7, generator=generator)
    matrix = torch.cat([matrix, -matrix])[torch.randperm(2 * n, generator=generator)]
    rows = FactoredRows(residuals=(matrix[:, :3],), features=(matrix.abs(),))
    assert len(solve(rows, n).indices) == 0


@pytest.mark.case("F5")
def test_a_row_joins_once_though_its_equal_is_there():
    rows = DenseRows(matrix=gaussian(5, 8).matrix.repeat(3, 1))
    found = once(rows, 15, ridge=0.0)
    assert len({i % 5 for i in found.indices.tolist()}) == len(found.indices)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ridge": -0.5}, "ridge .*-0.5"),
        ({"ridge": float("nan")}, "ridge .*nan"),
        ({"tolerance": 2}, "tolerance .*2"),
        ({"fill": "round"}, "'round'.*'rounds'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        GradMatch(**changes)


@pytest.mark.case("F5")
def test_a_target_that_is_not_finite_is_refused():
    rows = DenseRows(matrix=torch.rand(5, 3))
    with pytest.raises(DataError, match="target"):
        GradMatch()(
            rows, 2, target=torch.full((3,), float("nan")), generator=Stream(seed=0, purpose="x").at(torch.arange(5))
        )


def separated(n=80, seed=0, width=12, dtype=torch.float32):
    """Rows whose scores are far enough apart that float32 sums pick the same."""
    generator = torch.Generator().manual_seed(seed)
    residuals = [torch.randn(n, 5, generator=generator) + 0.2 for _ in range(2)]
    features = [torch.rand(n, width, generator=generator) for _ in range(2)]
    sides = [tuple(part.to(dtype) for part in side) for side in (residuals, features)]
    return FactoredRows(residuals=sides[0], features=sides[1])


def scaled(rows, scale):
    return FactoredRows(residuals=tuple(part * scale for part in rows.residuals), features=rows.features)


def at(rows, device):
    sides = [tuple(part.to(device) for part in side) for side in (rows.residuals, rows.features)]
    return FactoredRows(residuals=sides[0], features=sides[1])


def assert_same(found, other, rtol=1e-6):
    assert torch.equal(found.indices, other.indices)
    torch.testing.assert_close(found.weights, other.weights, rtol=rtol, atol=1e-6)
    assert found.info["stopped"] == other.info["stopped"] and found.info["rounds"] == other.info["rounds"]


def assert_nnls(rows, found, ridge, target=None, rtol=1e-6):
    matrix, goal = written(rows, target)
    matrix, goal = extended(matrix, goal, absolute(matrix, ridge))
    weights, _ = nnls(matrix[found.indices.cpu().numpy()].T, goal)
    assert len(found.indices) and (found.weights > 0).all()
    np.testing.assert_allclose(found.weights.cpu(), weights, rtol=rtol, atol=1e-6 * weights.max())


@pytest.fixture
def stored_in_float32(monkeypatch):
    monkeypatch.setattr(pairs, "EXACT_UP_TO", 10)


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("kind", ["factored", "dense", "blocks"])
def test_without_the_matrix_it_picks_and_weighs_the_same(kind, ridge, nonnegative):
    for seed in range(1 if kind == "blocks" else 3):
        rows = separated(n=50, seed=seed)
        if kind == "dense":
            rows = DenseRows(matrix=rows.dense().float())
        if kind == "blocks":
            rows = rows.block_means(torch.arange(50).split(3))
        for fill in ("none", "rounds"):
            ways = {"ridge": ridge, "nonnegative": nonnegative, "fill": fill}
            held, free = (solve(rows, 12, matrix=matrix, **ways) for matrix in ("held", "free"))
            assert_same(held, free)
            np.testing.assert_allclose(held.info["residuals"], free.info["residuals"], rtol=1e-4, atol=1e-6)


@pytest.mark.case("F4")
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.02, 0.5])
def test_a_matrix_stored_in_float32_gives_the_same_picks_and_float64_weights(ridge, nonnegative, monkeypatch):
    for seed in range(4):
        rows = separated(seed=seed)
        monkeypatch.setattr(pairs, "EXACT_UP_TO", 5000)
        exact = once(rows, 30, ridge=ridge, nonnegative=nonnegative)
        monkeypatch.setattr(pairs, "EXACT_UP_TO", 10)
        found = once(rows, 30, ridge=ridge, nonnegative=nonnegative)
        assert_same(found, exact)
        if nonnegative:
            assert_nnls(rows, found, ridge)
        assert found.info["residuals"][-1] == pytest.approx(relative_error(rows, found), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("matrix", ["held", "free"])
def test_many_rounds_end_as_they_do_in_float64(matrix, monkeypatch):
    rows = low_rank()
    rows = DenseRows(matrix=rows.matrix.float())
    exact = solve(rows, 15, ridge=0.0)
    monkeypatch.setattr(pairs, "EXACT_UP_TO", 10)
    found = solve(rows, 15, ridge=0.0, matrix=matrix)
    assert found.info["rounds"] > 3 and found.info["stopped"] == "budget" and len(found.indices) == 15
    assert relative_error(rows, found) == pytest.approx(relative_error(rows, exact), abs=0.05)


@pytest.mark.case("F5")
@pytest.mark.parametrize("matrix", ["held", "free"])
@pytest.mark.parametrize("power", [-66, 60])
def test_rows_of_any_scale_are_the_same_problem_in_float32(power, matrix, stored_in_float32):
    rows = separated()
    plain, far = solve(rows, 25, matrix=matrix), solve(scaled(rows, 2.0**power), 25, matrix=matrix)
    assert torch.equal(plain.indices, far.indices) and torch.equal(plain.weights, far.weights)
    assert plain.info == far.info


@pytest.mark.case("F4")
@pytest.mark.parametrize("matrix", ["held", "free"])
@pytest.mark.parametrize("scale", [1e18, 1e-20])
def test_huge_and_tiny_rows_get_nnls_weights_in_float32(scale, matrix, stored_in_float32):
    rows = scaled(separated(), scale)
    found = once(rows, 25, matrix=matrix)
    unit = scaled(FactoredRows(residuals=tuple(a.double() for a in rows.residuals), features=rows.features), 1 / scale)
    assert len(found.indices) == 25
    assert_nnls(unit, found, 0.02)


@pytest.mark.parametrize("matrix", ["held", "free"])
@pytest.mark.parametrize("exact_up_to", [10, 5000])
def test_the_total_of_other_rows_may_be_the_target(matrix, exact_up_to, monkeypatch):
    monkeypatch.setattr(pairs, "EXACT_UP_TO", exact_up_to)
    rows, validation = separated(), separated(30, seed=9)
    target = validation.total()
    found = once(rows, 15, target=target, matrix=matrix)
    assert_nnls(rows, found, 0.02, target)
    error = float((rows.combine(found.indices, found.weights) - target).norm() / target.norm())
    assert found.info["residuals"][-1] == pytest.approx(error, rel=1e-6) and error < 0.5
    assert not torch.equal(found.indices, once(rows, 15, matrix=matrix).indices)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("matrix", ["auto", "free"])
@pytest.mark.parametrize("fill", ["rounds", "none", "random"])
def test_problems_solved_together_are_each_solved_as_alone(fill, matrix, device):
    solver, tasks = GradMatch(fill=fill, matrix=matrix, tolerance=0.05), []
    for seed, (n, k) in enumerate([(60, 20), (25, 25), (7, 1), (40, 39), (5, 3)]):
        rows = at(separated(n, seed), device)
        target = rows.total() * 0 if n == 5 else at(separated(9, 50), device).total() if n == 25 else None
        generator = Stream(seed=seed, purpose="solver").at(torch.arange(n, device=device))
        tasks.append(Task(rows=rows, k=k, target=target, generator=generator))
    found = solver.together(tasks)
    assert len(found) == len(tasks) and solver.together([]) == []
    for own, task in zip(found, tasks, strict=True):
        alone = solver(task.rows, task.k, target=task.target, generator=task.generator)
        assert own.indices.device == task.rows.device and own.info["filled"] == alone.info["filled"]
        assert_same(own, alone)


@pytest.mark.parametrize("matrix", ["held", "free"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_factors_are_taken_as_the_numbers_they_are(dtype, matrix):
    rows = separated(dtype=dtype)
    sides = [tuple(part.double() for part in side) for side in (rows.residuals, rows.features)]
    double = FactoredRows(residuals=sides[0], features=sides[1])
    found = once(rows, 20, matrix=matrix)
    assert_same(found, once(double, 20))
    assert_nnls(double, found, 0.02)


@pytest.mark.case("F5")
@pytest.mark.parametrize("exact_up_to", [0, 5000])
@pytest.mark.parametrize("matrix", ["held", "free"])
def test_why_it_stopped_is_told(matrix, exact_up_to, monkeypatch):
    monkeypatch.setattr(pairs, "EXACT_UP_TO", exact_up_to)
    rows = separated()
    line = DenseRows(matrix=torch.tensor([[3.0, 0], [-1, 0], [-2, 0.0]]))
    told = [
        once(rows, 5, matrix=matrix),
        once(rows, 60, tolerance=0.3, matrix=matrix),
        once(line, 3, target=torch.tensor([1.0, 1.0]), ridge=0.0, matrix=matrix),
    ]
    reasons = ["budget", "tolerance", "no row correlates with the residual"]
    assert [found.info["stopped"] for found in told] == reasons
    assert len(told[0].indices) == 5 and told[1].info["residuals"][-1] <= 0.3 < told[1].info["residuals"][-2]
    assert told[2].indices.tolist() == [0] and told[2].info["residuals"] == pytest.approx([0.5**0.5])


@pytest.mark.case("F4")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("matrix", ["held", "free"])
@pytest.mark.parametrize("ridge", [0.0, 0.02])
def test_weights_are_scipys_and_scikit_learns_on_any_device(device, matrix, ridge):
    for seed in range(3):
        here = separated(seed=seed)
        rows = at(here, device)
        generator = Stream(seed=0, purpose="solver").at(torch.arange(80, device=device))
        found = GradMatch(ridge=ridge, tolerance=0.0, fill="none", matrix=matrix)(rows, 25, generator=generator)
        assert_nnls(here, found, ridge)
        path = found.info["residuals"]
        assert ridge or all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise([1.0, *path]))
        anyhow = GradMatch(ridge=0.0, tolerance=0.0, fill="none", matrix=matrix, nonnegative=False)
        signed, (written_out, target) = anyhow(rows, 10, generator=generator), written(here)
        theirs = orthogonal_mp(written_out.T, target, n_nonzero_coefs=10)
        assert set(np.flatnonzero(theirs)) == set(signed.indices.tolist())
        np.testing.assert_allclose(signed.weights.cpu(), theirs[signed.indices.cpu()], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "named"), [({"matrix": "hold"}, "'hold'.*'held'"), ({"ridge": True}, "ridge .*True")]
)
def test_other_settings_that_cannot_be_meant_are_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        GradMatch(**changes)


@pytest.mark.parametrize(("n", "held"), [(100, True), (31_000, True), (32_000, False), (10**6, False)])
def test_the_memory_told_is_that_of_the_matrix_if_it_is_held(n, held):
    each = 8 if n <= pairs.EXACT_UP_TO else 4
    assert GradMatch().memory(n, 50)["matrix"] == (each * n * n if held else 0)
    assert GradMatch(matrix="held").memory(n, 50)["matrix"] == each * n * n
    assert GradMatch(matrix="free").memory(n, 50) == {"matrix": 0, "solver": GradMatch().memory(n, 50)["solver"]}
