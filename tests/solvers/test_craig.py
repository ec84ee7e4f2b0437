"""CRAIG against brute force: every pick, every weight, the value."""

import functools
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
from advcore.rows.pairwise import distance_matrix
from advcore.solvers.craig import DISTANCES, Craig
from advcore.solvers.location import locate, locate_tiled


def stream(n):
    return Stream(seed=0, purpose="solver").at(torch.arange(n))


def solve(rows, k, **changes):
    return Craig(**changes)(rows, k, generator=stream(len(rows)))


def tiled(similarity, k, batch=4):
    """`locate` without a matrix, from one."""
    matrix = torch.from_numpy(similarity)
    return locate_tiled(lambda rows: matrix[rows], matrix.sum(1), k, batch=batch)


each_way = pytest.mark.parametrize("way", [locate, tiled])


def small_problem(case):
    """At most 10 rows of two passes, some of them equal in every third case, and how many to pick."""
    generator = torch.Generator().manual_seed(case)
    n = 2 + case % 9
    parts = [torch.randn(n, width, generator=generator) for width in (3, 3, 4, 4)]
    rows = FactoredRows(residuals=tuple(parts[:2]), features=tuple(parts[2:]))
    if case % 3 == 0:
        rows = rows.take(torch.randint(n, (n,), generator=generator))
    return rows, 1 + int(torch.randint(n, (), generator=generator))


def slow_distances(rows, kind):
    """(N, N) from the rows written out."""
    matrix = rows.dense().numpy()
    distance = np.array([np.linalg.norm(row - matrix, axis=1) for row in matrix])
    return distance**2 if kind == "squared" else distance


@functools.cache
def solved(case, kind):
    """Of a small problem: (N, N) distances, how many were to be picked, and what was."""
    rows, k = small_problem(case)
    return slow_distances(rows, kind), k, solve(rows, k, distance=kind)


def value(similarity, picks):
    return similarity[:, list(picks)].max(1).sum()


def slow_gain(similarity, picks, i):
    return value(similarity, [*picks, i]) - (value(similarity, picks) if picks else 0)


def naive_greedy(similarity, k):
    """Of the rows of best gain the one most similar to all, of those the first."""
    picks = []
    for _ in range(k):
        keys = [(slow_gain(similarity, picks, i), similarity[i].sum(), -i) for i in range(len(similarity))]
        picks.append(keys.index(max(keys)))
    return picks


CASES = [pytest.param(kind, range(start, 200, 4), id=f"{kind}-{start}") for kind in DISTANCES for start in range(4)]
each_case = pytest.mark.parametrize(("kind", "cases"), CASES)


@pytest.mark.case("F1")
@each_case
def test_each_pick_gains_as_much_as_the_best_by_brute_force(kind, cases):
    for case in cases:
        distance, _, found = solved(case, kind)
        similarity, picks = distance.max() - distance, found.indices.tolist()
        scale = similarity.sum(1).max() + 1e-300
        for m, (pick, gain) in enumerate(zip(picks, found.info["gains"], strict=True)):
            best = max(slow_gain(similarity, picks[:m], i) for i in range(len(distance)) if i not in picks[:m])
            own = slow_gain(similarity, picks[:m], pick)
            assert own == pytest.approx(best, rel=1e-6, abs=1e-12 * scale)
            assert gain == pytest.approx(own, rel=1e-6, abs=1e-12 * scale)


@pytest.mark.case("F1")
@each_case
def test_the_value_is_within_1_minus_1_over_e_of_the_optimum_and_equals_naive_greedys(kind, cases):
    for case in cases:
        distance, k, found = solved(case, kind)
        similarity = distance.max() - distance
        reached = value(similarity, found.indices.tolist())
        optimum = max(value(similarity, picks) for picks in itertools.combinations(range(len(distance)), k))
        assert reached >= (1 - 1 / math.e) * optimum
        assert reached == pytest.approx(value(similarity, naive_greedy(similarity, k)), rel=1e-9)


@pytest.mark.case("F3")
@each_case
def test_weights_are_the_cluster_sizes_of_a_slow_count(kind, cases):
    for case in cases:
        distance, _, found = solved(case, kind)
        picks, sizes = found.indices.tolist(), [0] * len(found.indices)
        for i in range(len(distance)):
            nearest = min(range(len(picks)), key=lambda p: (distance[i, picks[p]], p))
            sizes[picks.index(i) if i in picks else nearest] += 1
        assert found.weights.tolist() == sizes
        assert sum(sizes) == len(distance) and min(sizes) >= 1


@pytest.mark.case("F1")
@settings(deadline=None, derandomize=True, max_examples=25)
@given(n=strategies.integers(2, 60), width=strategies.integers(1, 5), seed=strategies.integers(0, 10**6))
def test_gains_never_rise_and_add_up_to_the_value(n, width, seed):
    rows = DenseRows(matrix=torch.randn(n, width, generator=torch.Generator().manual_seed(seed)))
    found = solve(rows, n)
    gains, distance = found.info["gains"], slow_distances(rows, "euclidean")
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(gains))
    assert sum(gains) == pytest.approx(value(distance.max() - distance, found.indices.tolist()), rel=1e-9)


@pytest.mark.case("F1")
@each_way
@settings(deadline=None, derandomize=True, max_examples=60)
@given(n=strategies.integers(1, 12), top=strategies.integers(1, 4), seed=strategies.integers(0, 10**6))
def test_lazy_picks_are_naive_greedys_with_ties_to_the_most_similar_then_the_lower_index(way, n, top, seed):
    half = np.triu(np.random.default_rng(seed).integers(0, top + 1, (n, n)).astype(float))
    similarity = half + np.triu(half, 1).T  # small whole numbers: many exact ties
    found = way(similarity, n)
    picks, gains = found.picks, found.gains
    assert picks == naive_greedy(similarity, len(picks))
    rest = [slow_gain(similarity, picks, i) for i in range(n) if i not in picks]
    assert not any(rest) and all(gain > 0 for gain in gains[1:])


def test_lazy_looks_at_far_fewer_than_naive():
    rows = DenseRows(matrix=torch.randn(300, 8, generator=torch.Generator().manual_seed(0)))
    assert solve(rows, 30).info["evaluations"] < 300 * 30 / 4


@pytest.mark.case("F1")
@pytest.mark.filterwarnings("ignore:Please import `csr_matrix`:DeprecationWarning")
@pytest.mark.parametrize("seed", range(5))
def test_the_value_equals_submodlibs_lazy_greedy(seed):
    submodlib = pytest.importorskip("submodlib", reason="needs the package submodlib-py")
    rows = DenseRows(matrix=torch.randn(40, 6, generator=torch.Generator().manual_seed(seed)))
    distance = slow_distances(rows, "euclidean")
    similarity = distance.max() - distance
    theirs = submodlib.FacilityLocationFunction(
        n=40, mode="dense", separate_rep=False, sijs=similarity, pybind_mode="array"
    ).maximize(budget=12, optimizer="LazyGreedy", stopIfZeroGain=False, stopIfNegativeGain=False, verbose=False)
    ours = value(similarity, solve(rows, 12).indices.tolist())
    # their kernel is float32
    assert ours == pytest.approx(value(similarity, [i for i, _ in theirs]), rel=1e-5)


@pytest.mark.case("F3")
def test_a_hand_worked_line():
    found = solve(DenseRows(matrix=torch.tensor([[0.0], [1.0], [10.0], [11.0], [12.0]])), 2)
    # 10 first, sum of distances 22; then 0 and 1 gain 18 each, and 1 is nearer to all
    assert found.indices.tolist() == [2, 1]
    assert found.weights.tolist() == [3, 2]
    assert found.info["gains"] == pytest.approx([38, 18])


@pytest.mark.case("F3")
@each_way
def test_a_pick_is_its_own_medoid_and_ties_go_to_the_earlier_pick(way):
    similarity = np.array([[4.0, 2, 0, 2], [2, 4, 3, 2], [0, 3, 4, 2], [2, 2, 2, 4]])
    found = way(similarity, 3)
    assert (found.picks, found.nearest.tolist()) == ([1, 3, 0], [2, 0, 0, 1])
    assert found.cluster_sizes().tolist() == [2, 1, 1]


@pytest.mark.case("F1")
@each_way
@pytest.mark.parametrize("seed", range(10))
def test_rounding_does_not_break_ties(way, seed):
    """Two rows that are each other's nearest gain the same; their distances' last bits must not matter."""
    generator = torch.Generator().manual_seed(seed)
    a, h = torch.randn(40, 3, generator=generator), torch.randn(40, 5, generator=generator)
    distance = slow_distances(FactoredRows(residuals=(a,), features=(h,)), "euclidean")
    noise = np.random.default_rng(seed).normal(size=(40, 40)) * 1e-14
    similarity = distance.max() - distance
    assert way(similarity * (1 + noise + noise.T), 40).picks == way(similarity, 40).picks


def test_squared_distances_are_another_problem():
    rows = DenseRows(matrix=torch.tensor([[0.0], [1.0], [2.0], [3.0], [14.0]]))
    assert solve(rows, 1).indices.tolist() == [2]  # the median
    assert solve(rows, 1, distance="squared").indices.tolist() == [3]  # nearest to the mean, 4


@pytest.mark.case("F3")
@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    spread=strategies.sampled_from([1.0, 1e-2, 1e-4]),
    copies=strategies.lists(strategies.integers(0, 8), min_size=2, max_size=40),
    seed=strategies.integers(0, 10**6),
)
def test_it_stops_at_zero_gain_with_one_pick_of_each_set_of_equal_rows(spread, copies, seed):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(1, 50, generator=generator)
    matrix = (base / base.norm() * 22 + spread * torch.randn(9, 50, generator=generator))[copies]
    found = solve(DenseRows(matrix=matrix), len(copies))
    assert sorted(copies[i] for i in found.indices.tolist()) == sorted(set(copies))
    assert found.weights.tolist() == [copies.count(copies[i]) for i in found.indices.tolist()]
    assert found.info["stopped"] == ("budget" if len(set(copies)) == len(copies) else "no gain")


@pytest.mark.case("F3")
def test_the_first_pick_is_made_even_if_it_gains_nothing():
    found = solve(DenseRows(matrix=torch.ones(5, 3)), 3)
    assert (found.indices.tolist(), found.weights.tolist()) == ([0], [5])
    assert found.info["stopped"] == "no gain"


@pytest.mark.case("F8")
@pytest.mark.parametrize("rank", [1, 8])
def test_equal_float32_rows_at_norm_22_are_at_distance_zero(rank):
    generator = torch.Generator().manual_seed(0)
    a, h = torch.randn(30, rank, generator=generator), torch.randn(30, 512, generator=generator)
    a = a * 22 / (a.norm(dim=1) * h.norm(dim=1))[:, None]
    rows = FactoredRows(residuals=(a,), features=(h,), kind="weight")
    twice = torch.arange(60) % 30
    distance = distance_matrix(rows.take(twice))
    equal = twice[:, None] == twice[None]
    assert (distance[equal] <= 1e-6 * 22).all() and (distance[~equal] > 1).all()


@pytest.mark.case("F1", "F3", "F5")
@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("way", ["held", "held, as of many rows", "free"])
@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    points=strategies.lists(
        strategies.tuples(strategies.integers(-2, 2), strategies.integers(-2, 2)), min_size=1, max_size=8
    ),
    scale=strategies.sampled_from([1.0, 1e-30, 1e30, 0.3]),
    share=strategies.floats(0, 1),
)
def test_on_a_lattice_full_of_ties_and_copies_gains_weights_and_value_are_those_of_brute_force(
    kind, way, points, scale, share
):
    rows, k = DenseRows(matrix=torch.tensor(points) * torch.tensor(scale)), max(1, round(share * len(points)))
    distance = np.array([[math.dist(a, b) for b in points] for a in points]) ** (2 if kind == "squared" else 1)
    similarity, unit = distance.max() - distance, scale ** (2 if kind == "squared" else 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "EXACT_UP_TO", 0 if "many" in way else 2048)
        found = solve(rows, k, distance=kind, matrix=way.split(",")[0])
    picks, gains = found.indices.tolist(), [gain / unit for gain in found.info["gains"]]
    rest = [i for i in range(len(points)) if i not in picks]
    for m, (pick, gain) in enumerate(zip(picks, gains, strict=True)):
        best = max(slow_gain(similarity, picks[:m], i) for i in range(len(points)) if i not in picks[:m])
        own = slow_gain(similarity, picks[:m], pick)
        assert own == pytest.approx(best, rel=1e-6, abs=1e-9) and gain == pytest.approx(own, rel=1e-6, abs=1e-9)
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(gains))
    reached = value(similarity, picks)
    assert reached == pytest.approx(value(similarity, naive_greedy(similarity, len(picks))), rel=1e-6, abs=1e-9)
    optimum = max(value(similarity, some) for some in itertools.combinations(range(len(points)), k))
    assert reached >= (1 - 1 / math.e) * optimum * (1 - 1e-6)
    assert len(picks) == k or all(slow_gain(similarity, picks, i) < 1e-6 for i in rest)
    sizes = found.weights.tolist()
    assert sum(sizes) == len(points) and all(size >= 1 and size == int(size) for size in sizes)
    near = [[p for p in range(len(picks)) if distance[i, picks[p]] <= distance[i, picks].min() + 1e-6] for i in rest]
    sure, maybe = [1] * len(picks), [1] * len(picks)  # a pick is its own
    for own in near:
        for p in own:
            sure[p], maybe[p] = sure[p] + (len(own) == 1), maybe[p] + 1
    assert all(low <= size <= high for low, size, high in zip(sure, sizes, maybe, strict=True))


def test_an_unknown_distance_offers_the_nearest():
    with pytest.raises(ConfigError, match="'square'.*'squared'"):
        Craig(distance="square")
