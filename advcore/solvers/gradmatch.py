"""GradMatch: non-negative ridge orthogonal matching pursuit (OMP) on gradient rows."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from advcore.errors import DataError, check_one_of, check_within, require
from advcore.kinds import find_type_problem
from advcore.rng import Stream
from advcore.rows import Rows
from advcore.rows.pairwise import choose_unit, gram_matrix, matrix_bytes, matrix_dtype, use_exact_factors
from advcore.runtime.device import is_faster_batched
from advcore.settings import setting, settings
from advcore.solvers.base import MATRIX, RowShape, Task, check_problem, matrix_is_held
from advcore.solvers.batched import pursue_together
from advcore.solvers.blocks import count_in_blocks, find_block_problem, match_in_blocks
from advcore.solvers.products import FactorProducts, GramProducts, Products
from advcore.solvers.pursuit import Pursuit, PursuitProblem, pursue, refit
from advcore.types import Selection

FILLS = ("rounds", "random", "none")
_STEADY = 1e-3  # ridge from which float32 products of many rows are exact enough
_CLEAR = 1e-6  # the sum over its rows' norms above which it cannot be rounding
_CANCELLED = 1e-14  # the sum over its parts' norms below which it is float64 rounding


@settings
class GradMatch:
    """Rows and non-negative weights whose sum is nearest to the target (by default the sum of all rows).

    Parameters
    ----------
    ridge : unit-free, in [0, 1e6]; the penalty on ||w||^2 is ridge x the problem's mean squared row norm.
    nonnegative : False lets weights take any sign and picks by absolute correlation, as scikit-learn's OMP does.
    tolerance : a round ends once the relative residual is below it; in [0, 1].
    fill : what to do when a round ends before k rows: "rounds" runs OMP again for the same target on the rows
        not picked yet and averages the rounds' weights by their counts; "random" adds random rows of weight 1
        (as published); "none" returns fewer.
    matrix : "held" keeps a problem's Gram matrix, "free" works from the factors, "auto" holds it up to 4 GB
        (about 31,000 rows). Both are exact.
    block_size : rows of a random block, at least 64, where a problem has more: its blocks are solved, and then, in
        blocks again, what they picked (`match_in_blocks`); null solves each problem as a whole.

    Weights are coefficients of the sum; with ridge they need not sum to N. `info`: `stopped` (why the last round
    ended), `rounds`, `filled` (random rows added), `residuals` (relative, after each pick of the first round).
    Precision: products are float64, or, with a ridge of 0.001 or more, float32 for more than 2048 float32 rows; pivots,
    weights and the residual's correlations are float64, and the last weights are refitted from float64 products.
    Cost: the Gram matrix O(N^2 (C + D)) time and 4 N^2 bytes (8 N^2 up to 2048), then O(k^2 N) time and 8 k^2 bytes;
    without it O(k N C D) time and 8 k^2 bytes. On CUDA the problems of a selection advance as one batch.
    Reference: Killamsetty et al. 2021, eq. 4 and algorithm 2; Dolatabadi et al. 2022, section 3.2. Differs: ridge
    is scaled, weights are refitted exactly, a shortfall is not filled at random unless asked.
    """

    ridge: float = setting(default=0.02, unit="unit-free")
    nonnegative: bool = True
    tolerance: float = setting(default=1e-4, unit="unit-free")
    fill: str = "rounds"
    matrix: str = "auto"
    block_size: int | None = setting(default=None, unit="rows")
    reads: ClassVar[str | None] = "last_layer"
    has_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(
            check_within("ridge", self.ridge, 0, 1e6),
            check_within("tolerance", self.tolerance, 0, 1),
            check_one_of("fill", self.fill, FILLS),
            check_one_of("matrix", self.matrix, MATRIX),
            find_block_problem(self.block_size),
        )

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        return self.together([Task(rows=rows, k=k, target=target, generator=generator)])[0]

    def together(self, tasks: Sequence[Task]) -> list[Selection]:
        """Solve several tasks; those with Gram matrices on a device where that is faster advance as one batch."""
        in_blocks = {i: self._match_in_blocks(task) for i, task in enumerate(tasks) if self._is_cut(len(task.rows))}
        others = iter(self._match_together([task for i, task in enumerate(tasks) if i not in in_blocks]))
        return [in_blocks[i] if i in in_blocks else next(others) for i in range(len(tasks))]

    def _is_cut(self, n: int) -> bool:
        return self.block_size is not None and n > self.block_size

    def _match_in_blocks(self, task: Task) -> Selection:
        assert self.block_size is not None, "what is cut has a size"
        _, target = self._check(task, task.rows)

        def match(rows: Rows, k: int, target: Tensor, stream: Stream) -> Selection:
            return self._match_together([Task(rows=rows, k=k, target=target, generator=stream)])[0]

        return match_in_blocks(match, task.rows, task.k, target=target, size=self.block_size, stream=task.generator)

    def _match_together(self, tasks: Sequence[Task]) -> list[Selection]:
        states = [self._prepare(task) for task in tasks]
        while unfinished := [state for state in states if not state.is_done]:
            for batch in _group(unfinished):
                for state, pursuit in zip(batch, self._pursue(batch), strict=True):
                    self._finish_round(state, pursuit)
        return [self._build_selection(state) for state in states]

    def memory(self, n: int, k: int) -> dict[str, int]:
        """Return the bytes needed besides n float32 rows: by the Gram matrix, and by the inverse of the support's."""
        if self.block_size is not None and n > self.block_size:
            n = k = self.block_size  # at most
        matrix = matrix_bytes(n) if self.ridge >= _STEADY else 8 * n * n
        return {"matrix": matrix if matrix_is_held(self.matrix, n) else 0, "solver": 8 * k * k}

    def operations(self, n: int, k: int, shape: RowShape) -> float:
        """Return how many multiplications it takes to pick k of n rows, in one round: a matrix once, then the picks."""
        if self.block_size is not None and n > self.block_size:
            return count_in_blocks(self.operations, n, k, shape, self.block_size)
        if matrix_is_held(self.matrix, n):
            return n * n * shape.product / 2 + k * k * n
        return k * n * shape.size + k * k * shape.product / 2 + k**3 / 3

    def _prepare(self, task: Task) -> "_TaskState":
        require(find_type_problem("rows", Rows, task.rows))
        rows = use_exact_factors(task.rows)
        norms, target = self._check(task, rows)
        unit = choose_unit(norms)
        target_norm = float(target.norm()) / math.sqrt(unit)

        def measure_residual(members: np.ndarray, weights: np.ndarray) -> float:
            positions, w = (torch.from_numpy(numbers).to(task.rows.device) for numbers in (members, weights))
            return float((task.rows.combine(positions, w) - target).norm()) / math.sqrt(unit) / target_norm

        problem = PursuitProblem(
            correlation=rows.correlate(target).cpu().numpy() / unit,
            target_norm=target_norm,
            k=task.k,
            ridge=self.ridge * float(norms.mean()) / unit,
            residual=measure_residual,
        )
        gram = None
        if matrix_is_held(self.matrix, len(rows)):
            # with next to no ridge, the residual of rows that are very similar needs float64
            dtype = matrix_dtype(task.rows) if self.ridge >= _STEADY else torch.float64
            gram = gram_matrix(rows, dtype, unit=unit)
        return _TaskState(task=task, unit=unit, gram=gram, problem=problem, measure_residual=measure_residual)

    def _check(self, task: Task, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the squared norms of a task's rows, and its target. Raises as `check_problem`, and DataError."""
        require(find_type_problem("rows", Rows, task.rows), find_type_problem("target", Tensor | None, task.target))
        norms = check_problem(rows, task.k)
        target = _sum_rows(rows, norms) if task.target is None else task.target.double()
        if not bool(torch.isfinite(target).all()):
            raise DataError("the target must be finite, got NaN or infinity")
        return norms, target

    def _pursue(self, batch: list["_TaskState"]) -> list[Pursuit]:
        """Run a round of each task: together if their Gram matrices are on a device where that is faster."""
        problems = [state.problem for state in batch]
        grams = [state.gram for state in batch if state.gram is not None and is_faster_batched(state.gram)]
        if grams:
            return pursue_together(grams, problems, nonnegative=self.nonnegative, tolerance=self.tolerance)
        return [
            pursue(state.products, state.problem, nonnegative=self.nonnegative, tolerance=self.tolerance)
            for state in batch
        ]

    def _finish_round(self, state: "_TaskState", pursuit: Pursuit) -> None:
        """Add a round to a task, and close its rows for the next; a round without rows says why there are fewer."""
        if pursuit.support and (state.gram is None or state.gram.dtype != torch.float64):
            pursuit = self._refit(state, pursuit)
        if pursuit.support or not state.rounds:
            state.rounds.append(pursuit)
        else:
            state.rounds[-1] = replace(state.rounds[-1], stopped=pursuit.stopped)
        closed = ~state.problem.mask_open_rows()
        closed[pursuit.support] = True
        state.problem = replace(state.problem, k=state.problem.k - len(pursuit.support), closed=closed)
        state.is_done = self.fill != "rounds" or not pursuit.support or state.problem.k == 0

    def _refit(self, state: "_TaskState", pursuit: Pursuit) -> Pursuit:
        """Return a round with weights from float64 products of its support; rows of weight 0 leave."""
        support = np.array(pursuit.support)
        rows = state.task.rows.take(torch.from_numpy(support).to(state.task.rows.device))
        weights = refit(
            gram_matrix(rows, unit=state.unit).cpu().numpy(),
            state.problem.correlation[support],
            pursuit.weights,
            ridge=state.problem.ridge,
            nonnegative=self.nonnegative,
        )
        support = support[weights != 0]
        weights = weights[weights != 0]
        path = [*pursuit.path[:-1], state.measure_residual(support, weights)]
        return replace(pursuit, support=support.tolist(), weights=weights, path=path)

    def _build_selection(self, state: "_TaskState") -> Selection:
        """Combine a task's rounds, each weighted by its share of the picked rows, and fill up if that is asked for."""
        rounds, missing = state.rounds, state.problem.k
        picked = np.concatenate([np.array(pursuit.support, dtype=np.int64) for pursuit in rounds])
        weights = np.concatenate([pursuit.weights * len(pursuit.support) / max(len(picked), 1) for pursuit in rounds])
        extra = np.zeros(0, dtype=np.int64)
        if self.fill == "random" and missing:
            order = state.task.generator.child("fill").permutation().cpu().numpy()
            extra = order[~np.isin(order, picked)][:missing]
        device = state.task.rows.device
        return Selection(
            indices=torch.from_numpy(np.concatenate([picked, extra])).to(device),
            weights=torch.from_numpy(np.concatenate([weights, np.ones(len(extra))])).to(device),
            info={
                "stopped": rounds[-1].stopped if missing else "budget",
                "rounds": len(rounds),
                "filled": len(extra),
                "residuals": rounds[0].path,
            },
        )


@dataclass(kw_only=True)
class _TaskState:
    """A task between its rounds.

    unit : what all inner products are divided by.
    gram : the rows' Gram matrix, if it is held.
    problem : of the next round: the same target, for as many rows as are missing, of those not picked yet.
    measure_residual : (rows, weights) to the exact relative residual.
    products : the rows' inner products, for rounds that are run alone.
    """

    task: Task
    unit: float
    gram: Tensor | None
    problem: PursuitProblem
    measure_residual: Callable[[np.ndarray, np.ndarray], float]
    rounds: list[Pursuit] = field(default_factory=list)
    is_done: bool = False

    @cached_property
    def products(self) -> Products:
        if self.gram is None:
            return FactorProducts(self.task.rows, self.unit)
        return GramProducts(self.gram.numpy())


def _group(states: list[_TaskState]) -> Iterable[list[_TaskState]]:
    """Group tasks by whether they hold a Gram matrix, and by its precision, which is one in a batch."""
    groups = defaultdict(list)
    for state in states:
        groups[getattr(state.gram, "dtype", None)].append(state)
    return groups.values()


def _sum_rows(rows: Rows, squared_norms: Tensor) -> Tensor:
    """Return the sum of all rows; 0 where they cancel: what is left then is rounding, which must not be fitted."""
    total = rows.total()
    if total.norm() > _CLEAR * squared_norms.sqrt().sum():
        return total
    return total * bool(total.norm() > _CANCELLED * rows.squared_parts().sqrt().sum())
