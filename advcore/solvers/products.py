"""Inner products of N rows, some of them in the slots of an `ActiveSet`: from a Gram matrix, or from the rows' factors.

Both classes answer the same calls. `diagonal` (N,) float64 holds the product of each row with itself; `precise` says
whether products are exact to float64, else they are to float32.
"""

from typing import cast

import numpy as np
import torch

from advcore.rows import Rows
from advcore.rows.pairwise import use_exact_factors

_EXACT_ROWS = 64  # rows of a float32 matrix that are turned to float64 at a time


class GramProducts:
    """Products read from a Gram matrix (N, N), float32 or float64, which is overwritten.

    The matrix's rows are reordered so that those in the slots come first: then the product with a weighted sum of them
    is one matrix-vector product, and needs no copy. Products with several sums cost little more than those with one.
    """

    def __init__(self, gram: np.ndarray) -> None:
        self._gram = gram
        self._place_of_row, self._row_at_place = np.arange(len(gram)), np.arange(len(gram))
        self.diagonal = gram.diagonal().astype(np.float64)
        self.precise = gram.dtype == np.float64

    def assign(self, slot: int, j: int) -> None:
        """Put row j into a slot: swap it with the row whose place the slot is."""
        place = self._place_of_row[j]
        displaced = self._row_at_place[slot]
        self._gram[[slot, place]] = self._gram[[place, slot]]
        self._row_at_place[[place, slot]] = displaced, j
        self._place_of_row[[displaced, j]] = place, slot

    def read_row(self, j: int) -> np.ndarray:
        """Return the products of row j with all rows, (N,), a view."""
        return self._gram[self._place_of_row[j]]

    def read_block(self, columns: np.ndarray, high: int) -> np.ndarray:
        """Return a copy of the products of the rows in the first `high` slots with the rows `columns`.

        Entries of slots that are not in use can be anything.
        """
        return np.take(self._gram[:high], columns, axis=1)

    def multiply_row(self, j: int, high: int) -> np.ndarray:
        """Return the products of row j with the rows in the first `high` slots, (high,) float64."""
        return self.read_row(j)[self._row_at_place[:high]].astype(np.float64)

    def correlate(self, weights: np.ndarray, *, exact: bool) -> np.ndarray:
        """Return the products of all rows with the weighted sum of the rows in the slots, (N,); `exact`: in float64.

        Weights of shape (r, m) give r sums, (r, N), if not `exact`.
        """
        used = self._gram[: weights.shape[-1]]
        if not exact or self.precise:
            return weights.astype(used.dtype) @ used
        pieces = [slice(start, start + _EXACT_ROWS) for start in range(0, len(weights), _EXACT_ROWS)]
        return cast(np.ndarray, sum(weights[piece] @ used[piece].astype(np.float64) for piece in pieces))


class FactorProducts:
    """Products computed from the rows' factors: no matrix is held, and a pick costs O(N C D)."""

    precise = False

    def __init__(self, rows: Rows, unit: float = 1.0) -> None:
        self._rows = rows
        self._exact_rows = use_exact_factors(rows)
        self._unit = unit
        self._members = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        self.diagonal = rows.squared_norms().cpu().numpy() / unit

    def assign(self, slot: int, j: int) -> None:
        self._members[slot] = j

    def multiply_row(self, j: int, high: int) -> np.ndarray:
        position = torch.tensor([j], device=self._rows.device)
        return self._exact_rows.gram(self._members[:high], position)[:, 0].cpu().numpy() / self._unit

    def correlate(self, weights: np.ndarray, *, exact: bool) -> np.ndarray:
        members = self._members[: len(weights)]
        combined = self._exact_rows.combine(members, torch.from_numpy(weights).to(members.device)) / self._unit
        return self._rows.correlate(combined, torch.float64 if exact else torch.float32).double().cpu().numpy()


Products = GramProducts | FactorProducts
