"""What every solver in the table promises beyond its contract; registering one is enough to have it tested.

The table itself runs the contract in tests/testing/test_contracts.py; settings that solve in another way run it here.
"""

import functools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies

from advcore.errors import BudgetError, ConfigError, DataError
from advcore.rng import Stream
from advcore.rows import BlockRows, DenseRows, FactoredRows
from advcore.rows import pairwise as pairs
from advcore.solvers import CCS, SOLVERS, ByScore, Craig, GradMatch
from advcore.solvers.base import estimate_memory
from advcore.testing import SolverContract
from advcore.testing.solvers import HARD, LINE, assert_sane, draw

OTHER_WAYS = {
    "craig without a matrix": Craig(matrix="free"),
    "stochastic craig": Craig(epsilon=0.1),
    "gradmatch without a matrix": GradMatch(matrix="free"),
    "gradmatch of any sign": GradMatch(nonnegative=False),
}
EACH = {name: Solver(**getattr(Solver, "example", {})) for name, Solver in SOLVERS.items()} | OTHER_WAYS
each_solver = pytest.mark.parametrize("solver", EACH.values(), ids=EACH)
# `random` looks at positions alone.
ORDERED = {name: solver for name, solver in EACH.items() if name != "random"}
order_free = pytest.mark.parametrize("solver", ORDERED.values(), ids=ORDERED)


class TestOtherWays(SolverContract):
    @pytest.fixture(params=OTHER_WAYS.values(), ids=OTHER_WAYS)
    def solver(self, request):
        return request.param


def stream(n, seed=0):
    return Stream(seed=seed, purpose="solver").at(torch.arange(n))


def generic(solver, n, seed=0):
    """Rows of the kind that the solver reads, as a selection would hand them over."""
    if solver.reads == "input_norm":
        return DenseRows(matrix=draw(n, 1, seed=seed).abs())
    if solver.reads is None:
        return DenseRows(matrix=torch.zeros(n, 0))
    residuals, features = draw(2, n, 3, seed=seed), draw(2, n, 5, seed=seed + 1)
    return FactoredRows(residuals=tuple(residuals), features=tuple(features))


@pytest.mark.case("F5")
@each_solver
@settings(deadline=None, derandomize=True, max_examples=25)
@given(n=strategies.integers(1, 25), share=strategies.floats(0, 1), seed=strategies.integers(0, 1000))
def test_never_over_k_unique_and_not_negative(solver, n, share, seed):
    k = max(1, round(share * n))
    assert_sane(solver(generic(solver, n, seed), k, generator=stream(n, seed)), n, k, solver)


@order_free
@settings(deadline=None, derandomize=True, max_examples=25)
@given(order=strategies.permutations(range(20)), k=strategies.integers(1, 20), seed=strategies.integers(0, 1000))
def test_the_order_of_the_rows_does_not_matter(solver, order, k, seed):
    rows, order = generic(solver, 20, seed), torch.tensor(order)
    given_order = solver(rows, k, generator=stream(20))
    shuffled = solver(rows.take(order), k, generator=stream(20).take(order))
    assert torch.equal(given_order.indices, order[shuffled.indices])
    torch.testing.assert_close(given_order.weights, shuffled.weights, rtol=1e-6, atol=1e-9)


@pytest.mark.case("F5")
@each_solver
@pytest.mark.parametrize("k", [0, -1, 11, True, False, 2.0, "3", None, np.float64(3), np.bool_(True)])
def test_a_count_outside_1_to_n_is_a_budget_error(solver, k):
    with pytest.raises(BudgetError, match=rf"k must be a whole number in 1\.\.10, .* got {re.escape(repr(k))}"):
        solver(generic(solver, 10), k, generator=stream(10))


HARDER = {name: HARD[name] for name in ("zero rows", "rank one", "sum is zero", "one row")} | {
    "1e30": draw(6, 4) * 1e30,
    "1e38": draw(6, 4).clamp(-3, 3) * 1e38,
    "1e-30": draw(6, 4) * 1e-30,
    "below the smallest float32": draw(6, 4) * 1e-40,
    "1e30 beside 1e-30": draw(6, 4) * torch.tensor([1e-30, 1e30, 1.0, 1e-30, 1e30, 1.0])[:, None],
    "1e100 in float64": draw(6, 4).double() * 1e100,
    "1e-100 in float64": draw(6, 4).double() * 1e-100,
    "float16 at its largest": draw(6, 4).sign().half() * 65504,
    "bfloat16": draw(6, 4).bfloat16(),
    "constant": torch.full((6, 3), 2.5),
    "each constant": LINE[:, None].expand(6, 4),
    "all but one equal": torch.cat([draw(1, 4).expand(5, 4), draw(1, 4, seed=9)]),
    "equal but for rounding": draw(1, 4) + 1e-7 * draw(6, 4, seed=3),
    "opposites": torch.cat([draw(1, 4), -draw(1, 4)]),
    "small whole numbers": draw(9, 3).round(),
    "more numbers than rows": draw(3, 50),
}
VARIANTS = EACH | {
    "craig of squared distances": Craig(distance="squared"),
    "craig of squared distances without a matrix": Craig(distance="squared", matrix="free"),
    "stochastic craig without a matrix": Craig(epsilon=0.5, matrix="free"),
    "gradmatch without ridge": GradMatch(ridge=0.0),
    "gradmatch without ridge or matrix": GradMatch(ridge=0.0, matrix="free"),
    "gradmatch of any sign without ridge": GradMatch(ridge=0.0, nonnegative=False),
    "gradmatch to the end": GradMatch(ridge=0.0, tolerance=0.0, fill="none"),
    "the easiest": ByScore(keep="easiest"),
    "the middle": ByScore(keep="middle"),
    "few strata": CCS(drop=0.5, strata=3),
}


@pytest.mark.gpu
@pytest.mark.case("F5")
@each_solver
@pytest.mark.parametrize("matrix", HARD.values(), ids=HARD)
def test_hard_rows_on_a_gpu_give_what_can_be_had_and_say_why(solver, matrix):
    n, matrix = len(matrix), matrix.cuda()
    generator = Stream(seed=0, purpose="solver").at(torch.arange(n, device="cuda"))
    if solver.reads == "input_norm":
        matrix = matrix.norm(dim=1, keepdim=True)
    factored = FactoredRows(residuals=(matrix,), features=(torch.ones(n, 2, device="cuda"),))
    for rows in (DenseRows(matrix=matrix), factored):
        for k in range(1, n + 1):
            assert_sane(solver(rows, k, generator=generator), n, k, solver)


def as_read(reads, matrix):
    """Rows of each kind that a solver that reads this may be given, with these numbers in them."""
    if reads not in (None, "last_layer", "divergence"):
        return [DenseRows(matrix=matrix[:, :1]), DenseRows(matrix=matrix[:, :1].abs())]
    ones = torch.ones(len(matrix), 2, dtype=matrix.dtype)
    dense = DenseRows(matrix=matrix)
    return [
        dense,
        BlockRows(members=dense, blocks=tuple(torch.tensor([i, (i + 1) % len(matrix)]) for i in range(len(matrix)))),
        FactoredRows(residuals=(matrix,), features=(ones,)),
        FactoredRows(residuals=(matrix, -matrix), features=(ones, ones)),  # passes that cancel
    ]


@functools.cache
def harder(reads, name):
    return as_read(reads, HARDER[name])


HELD = {name: solver for name, solver in VARIANTS.items() if getattr(solver, "matrix", "free") != "free"}


@pytest.mark.case("F5")
@pytest.mark.parametrize(
    ("solver", "exact_up_to"),
    [
        *(pytest.param(solver, 2048, id=name) for name, solver in VARIANTS.items()),
        *(pytest.param(solver, 0, id=f"{name}, as of many rows") for name, solver in HELD.items()),
    ],
)
def test_hard_rows_of_every_kind_and_number_are_survived(solver, exact_up_to, monkeypatch):
    """Of many rows, matrices are kept in float32."""
    monkeypatch.setattr(pairs, "EXACT_UP_TO", exact_up_to)
    for name in HARDER:
        for kind, rows in enumerate(harder(solver.reads, name)):
            for k in {(len(rows) + 1) // 2} if kind else {(len(rows) + 1) // 2, len(rows)}:
                try:
                    assert_sane(solver(rows, k, generator=stream(len(rows))), len(rows), k, solver)
                except Exception as error:
                    raise AssertionError(f"{name}, kind {kind}, k = {k}") from error


@pytest.mark.case("F5")
@pytest.mark.parametrize("solver", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_of_every_kind_that_are_not_finite_are_refused_naming_the_first(solver, bad):
    for at in (0, 4, 8):
        matrix = draw(9, 3)
        matrix[at, 0] = bad
        for rows in as_read(solver.reads, matrix):
            in_blocks = isinstance(rows, BlockRows)  # each of a row and the next
            with pytest.raises(DataError, match=rf"row {max(at - 1, 0) if in_blocks else at}$"):
                solver(rows, 3, generator=stream(9))


@pytest.mark.case("F5")
@pytest.mark.parametrize("power", [-60, -7, 1, 30])
@order_free
def test_a_power_of_two_changes_nothing_but_the_scale(solver, power):
    rows = generic(solver, 30)
    scaled = {
        "matrix": lambda: DenseRows(matrix=rows.matrix * 2.0**power),
        "residuals": lambda: FactoredRows(
            residuals=tuple(a * 2.0**power for a in rows.residuals), features=rows.features
        ),
    }["matrix" if isinstance(rows, DenseRows) else "residuals"]()
    before, after = (solver(one, 11, generator=stream(30)) for one in (rows, scaled))
    assert torch.equal(before.indices, after.indices)
    torch.testing.assert_close(before.weights, after.weights, rtol=1e-9, atol=0)


@each_solver
def test_a_subset_of_a_block_problem_is_solved_as_such(solver):
    rows = BlockRows(members=generic(solver, 40), blocks=torch.arange(40).split(5))
    assert_sane(solver(rows, 3, generator=stream(8)), 8, 3, solver)


@each_solver
@settings(deadline=None, derandomize=True, max_examples=30)
@given(n=strategies.integers(1, 10**6), share=strategies.floats(0, 1))
def test_memory_is_told_in_whole_bytes(solver, n, share):
    told = estimate_memory(solver, n, max(1, round(share * n)))
    assert set(told) == {"matrix", "solver"}
    assert told == solver.memory(n, max(1, round(share * n))) if hasattr(solver, "memory") else not any(told.values())
    assert all(isinstance(size, int) and size >= 0 for size in told.values())


@pytest.mark.case("F5")
@each_solver
@pytest.mark.parametrize("zero", [True, False])
def test_a_target_is_fitted_or_refused_in_one_line(solver, zero):
    rows = generic(solver, 10)
    target = rows.total(torch.arange(4)) * (0 if zero else 1)
    if getattr(solver, "has_target", False):
        assert_sane(solver(rows, 3, target=target, generator=stream(10)), 10, 3, solver)
        return
    with pytest.raises(ConfigError, match=rf"^{type(solver).__name__} .*takes no target; use GradMatch") as caught:
        solver(rows, 3, target=target, generator=stream(10))
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@each_solver
def test_a_gpu_gives_the_same_answer(solver):
    rows = generic(solver, 60)
    if isinstance(rows, DenseRows):
        there = DenseRows(matrix=rows.matrix.cuda())
    else:
        residuals, features = ([part.cuda() for part in parts] for parts in (rows.residuals, rows.features))
        there = FactoredRows(residuals=tuple(residuals), features=tuple(features))
    here = solver(rows, 20, generator=stream(60))
    answer = solver(there, 20, generator=Stream(seed=0, purpose="solver").at(torch.arange(60).cuda()))
    assert answer.indices.is_cuda and answer.weights.is_cuda
    assert torch.equal(answer.indices.cpu(), here.indices)
    torch.testing.assert_close(answer.weights.cpu(), here.weights, rtol=1e-9, atol=1e-12)
