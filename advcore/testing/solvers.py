"""The contract of a solver."""

import re

import pytest
import torch
from torch import Tensor

from advcore.errors import BudgetError, ConfigError, DataError
from advcore.gradients import GRADIENTS
from advcore.rows import DenseRows, FactoredRows, Rows
from advcore.solvers.base import Solver, estimate_memory
from advcore.testing.examples import draw_stream
from advcore.types import Selection


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers, seeded."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reads_scores(solver: Solver) -> bool:
    """Return whether a solver's rows are single numbers; those of a kind that is not in the table are taken to be."""
    gradient = GRADIENTS.get(solver.reads or "")
    return gradient is None or gradient.is_scalar


def draw_rows(solver: Solver, n: int, seed: int = 0) -> DenseRows | FactoredRows:
    """Return n rows of the kind that the solver reads."""
    if solver.reads is None:
        return DenseRows(matrix=torch.zeros(n, 0))
    if reads_scores(solver):
        return DenseRows(matrix=draw(n, 1, seed=seed).abs())
    residuals = draw(2, n, 3, seed=seed)
    features = draw(2, n, 5, seed=seed + 1)
    return FactoredRows(residuals=tuple(residuals), features=tuple(features))


def assert_sane(selection: Selection, n: int, k: int, solver: Solver) -> None:
    """Assert that an answer keeps its promises, and says why where it is shorter than asked for."""
    indices = selection.indices.tolist()
    assert selection.indices.dtype == torch.int64
    assert selection.weights.dtype == torch.float64
    assert len(indices) == len(selection.weights) <= k
    assert len({*indices}) == len(indices), "an example is picked twice"
    assert all(0 <= index < n for index in indices)
    assert torch.isfinite(selection.weights).all()
    assert (selection.weights >= 0).all() or not getattr(solver, "nonnegative", True)
    assert isinstance(selection.info["stopped"], str)
    assert (len(indices) == k) == (selection.info["stopped"] == "budget"), "it must say why it stopped"


LINE = torch.tensor([3.0, 2.0, 1.0, 0.5, -1.0, -2.0])
HARD = {
    "zero rows": torch.zeros(6, 4),
    "one zero row among others": torch.cat([draw(5, 4), torch.zeros(1, 4)]),
    "all equal": draw(1, 4).expand(6, 4),
    "pairs of equals": draw(3, 4).repeat(2, 1),
    "rank one": LINE[:, None] * draw(1, 4),
    "sum is zero": torch.cat([draw(3, 4), -draw(3, 4)]),
    "one row": draw(1, 4),
    "one zero row": torch.zeros(1, 4),
    "tiny": draw(6, 4) * 1e-20,
    "huge": draw(6, 4) * 1e18,
    "tiny next to huge": draw(6, 4) * torch.tensor([1e-18, 1e18, 1.0, 1e-18, 1e18, 1.0])[:, None],
}


class SolverContract:
    """What every solver promises; the fixture `solver` returns one."""

    @pytest.fixture
    def solver(self) -> Solver:
        raise NotImplementedError("give the contract a fixture `solver`")

    @pytest.mark.parametrize("n", [1, 2, 7, 25])
    def test_at_most_k_picks_unique_and_with_finite_weights(self, solver: Solver, n: int) -> None:
        for k in range(1, n + 1):
            selection = solver(draw_rows(solver, n, seed=k), k, generator=draw_stream(range(n)))
            assert_sane(selection, n, k, solver)

    def test_rows_in_general_position_give_all_k(self, solver: Solver) -> None:
        for k in (1, 7, 20):
            assert len(solver(draw_rows(solver, 40), k, generator=draw_stream(range(40))).indices) == k

    @pytest.mark.parametrize("seed", range(5))
    def test_the_order_of_the_rows_does_not_matter(self, solver: Solver, seed: int) -> None:
        if solver.reads is None:
            pytest.skip("it looks at positions alone")
        rows = draw_rows(solver, 20, seed)
        order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
        in_order = solver(rows, 8, generator=draw_stream(range(20)))
        shuffled = solver(rows.take(order), 8, generator=draw_stream(range(20)).take(order))
        assert torch.equal(in_order.indices, order[shuffled.indices])
        torch.testing.assert_close(in_order.weights, shuffled.weights, rtol=1e-6, atol=1e-9)

    def test_the_same_question_gets_the_same_bits_and_nothing_is_changed(self, solver: Solver) -> None:
        rows = draw_rows(solver, 30)
        matrix = rows.dense().clone()
        state = torch.get_rng_state()
        first = solver(rows, 9, generator=draw_stream(range(30)))
        second = solver(rows, 9, generator=draw_stream(range(30)))
        assert torch.equal(first.indices, second.indices)
        assert torch.equal(first.weights, second.weights)
        assert first.info == second.info
        assert torch.equal(rows.dense(), matrix)
        assert torch.equal(torch.get_rng_state(), state), "it draws from torch's global state"

    @pytest.mark.parametrize("k", [0, -1, 11, True, 2.0, "3", None])
    def test_a_count_outside_1_to_n_is_a_budget_error(self, solver: Solver, k: object) -> None:
        with pytest.raises(BudgetError, match=rf"k must be a whole number in 1\.\.10, .* got {re.escape(repr(k))}"):
            solver(draw_rows(solver, 10), k, generator=draw_stream(range(10)))  # type: ignore[arg-type]

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_rows_that_are_not_finite_are_refused_naming_the_first(self, solver: Solver, bad: float) -> None:
        matrix = draw(10, 3)
        matrix[7, 0] = bad
        matrix[4, 2] = bad
        with pytest.raises(DataError, match="row 4$"):
            solver(DenseRows(matrix=matrix), 3, generator=draw_stream(range(10)))

    @pytest.mark.parametrize("matrix", HARD.values(), ids=HARD)
    def test_hard_rows_give_what_can_be_had_and_say_why(self, solver: Solver, matrix: Tensor) -> None:
        n = len(matrix)
        if solver.reads is not None and reads_scores(solver):
            matrix = matrix.norm(dim=1, keepdim=True)
        kinds: list[Rows] = [DenseRows(matrix=matrix)]
        kinds.append(FactoredRows(residuals=(matrix,), features=(torch.ones(n, 2),)))
        for rows in kinds:
            for k in range(1, n + 1):
                assert_sane(solver(rows, k, generator=draw_stream(range(n))), n, k, solver)

    @pytest.mark.parametrize("n", [1, 1000, 10**6])
    def test_memory_is_in_bytes(self, solver: Solver, n: int) -> None:
        sizes = estimate_memory(solver, n, max(1, n // 3))
        assert set(sizes) == {"matrix", "solver"}
        assert all(isinstance(size, int) and size >= 0 for size in sizes.values())

    def test_a_target_is_fitted_or_refused_in_one_line(self, solver: Solver) -> None:
        rows = draw_rows(solver, 10)
        target = rows.total(torch.arange(4))
        if getattr(solver, "has_target", False):
            assert_sane(solver(rows, 3, target=target, generator=draw_stream(range(10))), 10, 3, solver)
            return
        with pytest.raises(ConfigError, match="takes no target") as caught:
            solver(rows, 3, target=target, generator=draw_stream(range(10)))
        assert "\n" not in str(caught.value)
