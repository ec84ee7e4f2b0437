"""Non-negative ridge orthogonal matching pursuit (OMP): one loop, over a Gram matrix or over the rows' factors."""

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve, lapack

from advcore.rows import Rows
from advcore.solvers.active import ActiveSet

REFRESH = 128  # steps after which correlations are summed again in float64
LEAST = {True: 1e-10, False: 1e-8}  # correlation over norms below which a row is orthogonal; by `precise`
PIVOT = {True: 1e-12, False: 2e-6}  # pivot over diagonal below which a row is a combination of others; by `precise`


@dataclass
class Pursuit:
    """One round's answer: rows in the order they joined, their weights, the relative residual after each pick."""

    support: list[int] = field(default_factory=list)
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    path: list[float] = field(default_factory=list)
    stopped: str = "budget"


class Products(Protocol):
    """Inner products of N rows, as a pursuit asks for them; slots are those of an `ActiveSet`.

    precise : they are exact to float64; False: to float32.
    """

    diagonal: np.ndarray
    precise: bool

    def put(self, slot: int, j: int) -> None:
        """Row j takes a slot."""

    def with_row(self, j: int, high: int) -> np.ndarray:
        """(high,) float64 products of row j with the rows in the slots."""

    def spread(self, weights: np.ndarray, *, exact: bool) -> np.ndarray:
        """(N,) products of all rows with the weighted sum of those in the slots. `exact`: summed in float64."""


class GramProducts:
    """From a Gram matrix (N, N), float32 or float64, whose rows it reorders in place so that the slots come first:
    then a weighted sum of rows in use is one matrix-vector product, and no copy of them is kept."""

    def __init__(self, gram: np.ndarray):
        self._gram = gram
        self._place, self._row = np.arange(len(gram)), np.arange(len(gram))  # of a row; at a place
        self.diagonal = gram.diagonal().astype(np.float64)
        self.precise = gram.dtype == np.float64

    def put(self, slot: int, j: int) -> None:
        place, other = self._place[j], self._row[slot]
        if place != slot:
            self._gram[[slot, place]] = self._gram[[place, slot]]
        self._row[slot], self._row[place] = j, other
        self._place[other], self._place[j] = place, slot

    def with_row(self, j: int, high: int) -> np.ndarray:
        return self._gram[self._place[j]][self._row[:high]].astype(np.float64)

    def spread(self, weights: np.ndarray, *, exact: bool) -> np.ndarray:
        used = self._gram[: len(weights)]
        if not exact or self.precise:
            return weights.astype(used.dtype) @ used
        parts = range(0, len(weights), 64)
        return sum(weights[s : s + 64] @ used[s : s + 64].astype(np.float64) for s in parts)


class FactorProducts:
    """From the rows' factors: no matrix, O(N C D) a pick."""

    precise = False

    def __init__(self, rows: Rows, unit: float = 1.0):
        self._rows, self._unit = rows, unit
        self.diagonal = rows.squared_norms().cpu().numpy() / unit
        self._members = torch.zeros(len(rows), dtype=torch.long, device=rows.device)

    def put(self, slot: int, j: int) -> None:
        self._members[slot] = j

    def with_row(self, j: int, high: int) -> np.ndarray:
        own = torch.tensor([j], device=self._rows.device)
        return self._rows.gram(self._members[:high], own)[:, 0].cpu().numpy() / self._unit

    def spread(self, weights: np.ndarray, *, exact: bool) -> np.ndarray:
        own = torch.from_numpy(weights).to(self._rows.device)
        combined = self._rows.combine(self._members[: len(own)], own) / self._unit
        return self._rows.correlate(combined, torch.float64 if exact else torch.float32).double().cpu().numpy()


def pursue(
    products: Products,
    correlation: np.ndarray,
    target_norm: float,
    k: int,
    *,
    ridge: float = 0.0,
    nonnegative: bool = True,
    tolerance: float = 0.0,
    closed: np.ndarray | None = None,
) -> Pursuit:
    """Minimise ||sum_i w_i g_i - t||^2 + ridge ||w||^2 over at most k rows, greedily.

    Each step lets the row join that correlates most with the residual (by absolute value unless
    `nonnegative`) and refits all weights. With `nonnegative`, a refit that would turn weights negative walks
    towards it until the first reaches 0 and lets that row leave (`ActiveSet.settle`), so the weights are the
    non-negative least-squares solution on the support.

    Parameters
    ----------
    products : of N rows.
    correlation : (N,) float64, <g_i, t>.
    target_norm : ||t||.
    k : most rows in the support.
    ridge : absolute, >= 0.
    tolerance : stop once ||residual|| <= tolerance ||t||.
    closed : (N,) bool, rows that may not join.

    Weights, pivots and the residual's correlations are float64. What a step changes in the correlations is a sum in the
    products' own precision; every 128 steps all of it is summed again in float64, and the weights are corrected.
    Cost O(N) + O(m^2) a pick for the choice and the refit, m the support's size, and the products': O(N m) from a
    Gram matrix, O(N C D) from factors. A row that leaves costs O(m^2).
    Reference: Killamsetty et al. 2021 (GradMatch), algorithm 2; Rubinstein et al. 2008 (Batch-OMP). Differs:
    a row that left may join again; rows with no positive correlation never join.
    """
    n = len(correlation)
    active = ActiveSet(k, dependent=PIVOT[products.precise], nonnegative=nonnegative)
    least = LEAST[products.precise] * target_norm * np.sqrt(np.maximum(products.diagonal, 0))
    is_open = np.ones(n, dtype=bool) if closed is None else ~closed
    applied, left = np.zeros(k), correlation.copy()
    path, size, stopped = [], 0, "budget"
    for step in range(1, 10 * n + 10 * k):
        if size == k:
            break
        if path and path[-1] <= tolerance:
            stopped = "tolerance"
            break
        score = left if nonnegative else np.abs(left)
        score = np.where(is_open & (score > least), score, -np.inf)
        j = int(score.argmax())
        if score[j] == -np.inf:
            stopped = "no row correlates with the residual"
            break
        is_open[j] = False
        column = products.with_row(j, active.high)
        slot = active.free_slot()
        if not active.join(j, column, products.diagonal[j] + ridge, left[j]):
            continue  # a combination of the support: closed for this round
        products.put(slot, j)
        gone = active.settle()
        is_open[[i for i in gone if i != j]] = True
        size += 1 - len(gone)
        high = active.high
        members = active.members[:high]
        if step % REFRESH == 0:
            applied[:high] = active.weights[:high]
            left = correlation - products.spread(applied[:high], exact=True)
            active.correct(left[members] - ridge * applied[:high])
            gone = active.settle()
            is_open[gone] = True
            size -= len(gone)
        weights = active.weights[:high]
        left = left - products.spread(weights - applied[:high], exact=False)
        applied[:high] = weights
        held = members >= 0
        squared = target_norm**2 - weights[held] @ (correlation[members[held]] + left[members[held]])
        path.append(math.sqrt(max(squared, 0.0)) / target_norm)
    else:
        stopped = "rounding"
    slots = active.slots
    return Pursuit(active.members[slots].tolist(), active.weights[slots], path, stopped)


def refit(
    gram: np.ndarray, correlation: np.ndarray, weights: np.ndarray, *, ridge: float, nonnegative: bool
) -> np.ndarray:
    """(m,) least-squares weights on a support, from its float64 products; 0 for rows that leave it.

    gram : (m, m), overwritten; correlation : (m,); weights : (m,) what to walk from. Cost O(m^3 / 3).
    """
    gram[np.diag_indices(len(gram))] += ridge
    try:
        factor = cho_factor(gram.T, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return weights  # dependent to working precision: what the pursuit found stands
    wanted = cho_solve(factor, correlation, check_finite=False)
    if not nonnegative or (wanted > 0).all():
        return wanted
    inverse, _ = lapack.dtrtri(factor[0], lower=1, overwrite_c=1)
    active = ActiveSet.solved(np.tril(inverse), weights, wanted)
    active.settle()
    return active.weights
