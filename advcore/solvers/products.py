"""Inner products of rows as a pursuit asks for them: from a Gram matrix, or from the rows' factors."""

from typing import Protocol

import numpy as np
import torch

from advcore.pairs import ready
from advcore.rows import Rows


class Products(Protocol):
    """Inner products of N rows, as a pursuit asks for them; slots are those of an `ActiveSet`.

    precise : they are exact to float64; False: to float32.
    leaps : several weighted sums at once are cheaper than one after the other; it has `row` and `among`.
    """

    diagonal: np.ndarray
    precise: bool
    leaps: bool

    def put(self, slot: int, j: int) -> None:
        """Row j takes a slot."""

    def with_row(self, j: int, high: int) -> np.ndarray:
        """(high,) float64 products of row j with the rows in the slots."""

    def spread(self, weights: np.ndarray, *, exact: bool) -> np.ndarray:
        """(N,) products of all rows with the weighted sum of those in the slots. `exact`: summed in float64. Weights of
        shape (r, m) give (r, N)."""


class GramProducts:
    """From a Gram matrix (N, N), float32 or float64, whose rows it reorders in place so that the slots come first:
    then a weighted sum of rows in use is one matrix-vector product, and no copy of them is kept."""

    leaps = True

    def __init__(self, gram: np.ndarray):
        self._gram, self._spare = gram, np.empty(len(gram), dtype=gram.dtype)
        self._place, self._row = np.arange(len(gram)), np.arange(len(gram))  # of a row; at a place
        self.diagonal = gram.diagonal().astype(np.float64)
        self.precise = gram.dtype == np.float64

    def put(self, slot: int, j: int) -> None:
        place, other = self._place[j], self._row[slot]
        if place != slot:
            self._spare[:] = self._gram[slot]
            self._gram[slot] = self._gram[place]
            self._gram[place] = self._spare
        self._row[slot], self._row[place] = j, other
        self._place[other], self._place[j] = place, slot

    def row(self, j: int) -> np.ndarray:
        """(N,) its products with all rows."""
        return self._gram[self._place[j]]

    def among(self, few: np.ndarray, capacity: int) -> np.ndarray:
        """(capacity, len(few)) products of the rows in the slots with `few`; slots not in use hold anything."""
        return np.take(self._gram[:capacity], few, axis=1)

    def with_row(self, j: int, high: int) -> np.ndarray:
        return self.row(j)[self._row[:high]].astype(np.float64)

    def spread(self, weights: np.ndarray, *, exact: bool) -> np.ndarray:
        used = self._gram[: weights.shape[-1]]
        if not exact or self.precise:
            return weights.astype(used.dtype) @ used
        parts = range(0, len(weights), 64)
        return sum(weights[s : s + 64] @ used[s : s + 64].astype(np.float64) for s in parts)


class FactorProducts:
    """From the rows' factors: no matrix, O(N C D) a pick."""

    precise = leaps = False

    def __init__(self, rows: Rows, unit: float = 1.0):
        self._rows, self._unit = rows, unit
        self._exact = ready(rows)  # what is summed in float64
        self.diagonal = rows.squared_norms().cpu().numpy() / unit
        self._members = torch.zeros(len(rows), dtype=torch.long, device=rows.device)

    def put(self, slot: int, j: int) -> None:
        self._members[slot] = j

    def with_row(self, j: int, high: int) -> np.ndarray:
        own = torch.tensor([j], device=self._rows.device)
        return self._exact.gram(self._members[:high], own)[:, 0].cpu().numpy() / self._unit

    def spread(self, weights: np.ndarray, *, exact: bool) -> np.ndarray:
        own = torch.from_numpy(weights).to(self._rows.device)
        combined = self._exact.combine(self._members[: len(own)], own) / self._unit
        return self._rows.correlate(combined, torch.float64 if exact else torch.float32).double().cpu().numpy()
