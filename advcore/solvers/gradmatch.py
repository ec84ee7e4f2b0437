"""GradMatch: non-negative ridge orthogonal matching pursuit (OMP) on gradient rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from advcore.device import batches
from advcore.errors import DataError, one_of, require, within
from advcore.pairs import gram_matrix, matrix_bytes, matrix_dtype, natural_unit, ready
from advcore.rng import Stream
from advcore.rows import Rows
from advcore.solvers.base import MATRIX, Task, check_problem, matrix_is_held
from advcore.solvers.batched import pursue_together
from advcore.solvers.products import FactorProducts, GramProducts, Products
from advcore.solvers.pursuit import Pursuit, pursue, refit
from advcore.types import Selection, settings

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

    Weights are coefficients of the sum; with ridge they need not sum to N. `info`: `stopped` (why the last round
    ended), `rounds`, `filled` (random rows added), `residuals` (relative, after each pick of the first round).
    Precision: products are float64, or, with a ridge of 0.001 or more, float32 for more than 2048 float32 rows; pivots,
    weights and the residual's correlations are float64, and the last weights are refitted from float64 products.
    Cost: the Gram matrix O(N^2 (C + D)) time and 4 N^2 bytes (8 N^2 up to 2048), then O(k^2 N) time and 8 k^2 bytes;
    without it O(k N C D) time and 8 k^2 bytes. On CUDA the problems of a selection advance as one batch.
    Reference: Killamsetty et al. 2021, eq. 4 and algorithm 2; Dolatabadi et al. 2022, section 3.2. Differs: ridge
    is scaled, weights are refitted exactly, a shortfall is not filled at random unless asked.
    """

    ridge: float = 0.02
    nonnegative: bool = True
    tolerance: float = 1e-4
    fill: str = "rounds"
    matrix: str = "auto"
    reads: ClassVar[str | None] = "last_layer"
    has_target: ClassVar[bool] = True

    def __post_init__(self):
        require(
            within("ridge", self.ridge, 0, 1e6),
            within("tolerance", self.tolerance, 0, 1),
            one_of("fill", self.fill, FILLS),
            one_of("matrix", self.matrix, MATRIX),
        )

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        return self.together([Task(rows=rows, k=k, target=target, generator=generator)])[0]

    def together(self, tasks: Sequence[Task]) -> list[Selection]:
        """One answer a task; those whose Gram matrix lies where that is faster advance as one batch."""
        pending = [self._prepare(task) for task in tasks]
        while waiting := [one for one in pending if not one.done]:
            for dtype in (torch.float32, torch.float64):
                batch = [one for one in waiting if one.batched and one.gram.dtype == dtype]
                found = pursue_together([one.gram for one in batch], **self._settings(batch)) if batch else []
                for one, pursuit in zip(batch, found, strict=True):
                    self._take(one, pursuit)
            for one in waiting:
                if not one.batched:
                    self._take(one, self._advance(one))
        return [self._answer(one) for one in pending]

    def memory(self, n: int, k: int) -> dict[str, int]:
        """Bytes beside n float32 rows: the matrix, and the inverse of the support's."""
        matrix = matrix_bytes(n) if self.ridge >= _STEADY else 8 * n * n
        return {"matrix": matrix if matrix_is_held(self.matrix, n) else 0, "solver": 8 * k * k}

    def _dtype(self, rows: Rows) -> torch.dtype:
        """Of the Gram matrix; with next to no ridge the residual of rows that are much alike needs float64."""
        return matrix_dtype(rows) if self.ridge >= _STEADY else torch.float64

    def _prepare(self, task: Task) -> "_Pending":
        rows = ready(task.rows)
        norms = check_problem(rows, task.k)
        target = _whole(rows, norms) if task.target is None else task.target.double()
        if not bool(torch.isfinite(target).all()):
            raise DataError("the target must be finite, got NaN or infinity")
        unit = natural_unit(norms)
        held, dtype = matrix_is_held(self.matrix, len(rows)), self._dtype(task.rows)
        return _Pending(
            task=task,
            target=target,
            unit=unit,
            gram=gram_matrix(rows, dtype, unit=unit) if held else None,
            correlation=rows.correlate(target).cpu().numpy() / unit,
            norm=float(target.norm()) / math.sqrt(unit),
            ridge=self.ridge * float(norms.mean()) / unit,
            closed=np.zeros(len(rows), dtype=bool),
        )

    def _advance(self, one: "_Pending") -> Pursuit:
        """One round of one problem."""
        if one.products is None:
            held = one.gram is not None
            one.products = GramProducts(one.gram.numpy()) if held else FactorProducts(one.task.rows, one.unit)
        return pursue(
            one.products,
            one.correlation,
            one.norm,
            one.left,
            ridge=one.ridge,
            nonnegative=self.nonnegative,
            tolerance=self.tolerance,
            closed=one.closed,
            residual=one.residual,
        )

    def _settings(self, batch: list["_Pending"]) -> dict:
        """What `pursue_together` needs to know of the problems, one entry each, and of all."""
        names = {"correlations": "correlation", "norms": "norm", "ks": "left", "ridges": "ridge", "closed": "closed"}
        each = {name: [getattr(one, key) for one in batch] for name, key in names.items()}
        return each | {"nonnegative": self.nonnegative, "tolerance": self.tolerance}

    def _take(self, one: "_Pending", found: Pursuit) -> None:
        """Note a round: its rows are closed for the next; one that adds none says why there are fewer."""
        if one.gram is None or one.gram.dtype != torch.float64:
            self._refit(one, found)
        if found.support or not one.rounds:
            one.rounds.append(found)
        else:
            one.rounds[-1].stopped = found.stopped
        one.closed[found.support] = True
        one.done = self.fill != "rounds" or not found.support or one.left == 0

    def _refit(self, one: "_Pending", found: Pursuit) -> None:
        """The weights again, from float64 products of the support."""
        if not found.support:
            return
        rows, support = one.task.rows, np.array(found.support)
        at = torch.from_numpy(support).to(rows.device)
        gram = gram_matrix(rows.take(at), unit=one.unit).cpu().numpy()
        weights = refit(gram, one.correlation[support], found.weights, ridge=one.ridge, nonnegative=self.nonnegative)
        keep = weights != 0
        found.support, found.weights = support[keep].tolist(), weights[keep]
        found.path[-1] = one.residual(np.array(found.support, dtype=np.int64), found.weights)

    def _answer(self, one: "_Pending") -> Selection:
        rounds, k, device = one.rounds, one.task.k, one.task.rows.device
        picked = np.array([i for found in rounds for i in found.support], dtype=np.int64)
        weights = np.concatenate([found.weights * len(found.support) / max(len(picked), 1) for found in rounds])
        stopped = "budget" if len(picked) == k else rounds[-1].stopped
        filled = 0
        if self.fill == "random" and len(picked) < k:
            order = one.task.generator.child("fill").permutation().cpu().numpy()
            extra = order[~np.isin(order, picked)][: k - len(picked)]
            picked, filled = np.concatenate([picked, extra]), len(extra)
            weights = np.concatenate([weights, np.ones(filled)])
        return Selection(
            indices=torch.from_numpy(picked).to(device),
            weights=torch.from_numpy(weights).to(device),
            info={"stopped": stopped, "rounds": len(rounds), "filled": filled, "residuals": rounds[0].path},
        )


@dataclass(kw_only=True)
class _Pending:
    """A problem on its way, its products over `unit`."""

    task: Task
    target: Tensor
    unit: float
    gram: Tensor | None
    correlation: np.ndarray
    norm: float
    ridge: float
    closed: np.ndarray
    products: Products | None = None
    rounds: list[Pursuit] = field(default_factory=list)
    done: bool = False

    @property
    def left(self) -> int:
        """How many rows are still to be picked."""
        return self.task.k - int(self.closed.sum())

    def residual(self, members: np.ndarray, weights: np.ndarray) -> float:
        """Of the weighted rows, relative to the target."""
        rows = self.task.rows
        at, own = (torch.from_numpy(numbers).to(rows.device) for numbers in (members, weights))
        return float((rows.combine(at, own) - self.target).norm()) / math.sqrt(self.unit) / self.norm

    @property
    def batched(self) -> bool:
        return self.gram is not None and batches(self.gram)


def _whole(rows: Rows, squared_norms: Tensor) -> Tensor:
    """The sum of all rows; zero where they cancel and what is left is rounding, which must not be fitted."""
    total = rows.total()
    if total.norm() > _CLEAR * squared_norms.sqrt().sum():
        return total
    return total * bool(total.norm() > _CANCELLED * rows.squared_parts().sqrt().sum())
