"""Inner products of rows as a pursuit needs them: from a Gram matrix, or from the rows' factors."""

from typing import Protocol, TypeGuard

import numpy as np
import torch

from advcore.rows import Rows
from advcore.rows.pairwise import use_exact_factors

_EXACT_ROWS = 64  # rows of a float32 matrix that are turned to float64 at a time


class Products(Protocol):
    """Inner products of N rows, of which some are in the slots of an `ActiveSet`.

    diagonal : (N,) float64, the product of each row with itself.
    precise : whether products are exact to float64; else to float32.
    supports_leaps : whether correlating with several sums at once is cheaper than one after the other; such products
        are `LeapProducts`.
    """

    diagonal: np.ndarray
    precise: bool
    supports_leaps: bool

    def assign(self, slot: int, j: int) -> None:
        """Put row j into a slot."""

    def multiply_row(self, j: int, high: int) -> np.ndarray:
        """Return the products of row j with the rows in the first `high` slots, (high,) float64."""

    def correlate(self, weights: np.ndarray, *, exact: bool) -> np.ndarray:
        """Return the products of all rows with the weighted sum of the rows in the slots, (N,).

        Weights of shape (r, m) stand for r sums and give (r, N). `exact`: sum in float64.
        """


class LeapProducts(Products, Protocol):
    """Products that support leaps."""

    def read_row(self, j: int) -> np.ndarray:
        """Return the products of row j with all rows, (N,), a view."""

    def read_block(self, columns: np.ndarray, high: int) -> np.ndarray:
        """Return a copy of the products of the rows in the first `high` slots with the rows `columns`.

        Entries of slots that are not in use can be anything.
        """


def can_leap(products: Products) -> TypeGuard[LeapProducts]:
    """Return whether the products support leaps."""
    return products.supports_leaps


class GramProducts:
    """Products read from a Gram matrix (N, N), float32 or float64, which is overwritten.

    The matrix's rows are reordered so that those in the slots come first: then the product with a weighted sum of them
    is one matrix-vector product, and needs no copy.
    """

    supports_leaps = True

    def __init__(self, gram: np.ndarray):
        self._gram = gram
        self._place_of_row, self._row_at_place = np.arange(len(gram)), np.arange(len(gram))
        self.diagonal = gram.diagonal().astype(np.float64)
        self.precise = gram.dtype == np.float64

    def assign(self, slot: int, j: int) -> None:
        """Swap row j with the row whose place the slot is."""
        place = self._place_of_row[j]
        displaced = self._row_at_place[slot]
        products = self._gram[slot].copy()
        self._gram[slot] = self._gram[place]
        self._gram[place] = products
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
        return self.read_row(j)[self._row_at_place[:high]].astype(np.float64)

    def correlate(self, weights: np.ndarray, *, exact: bool) -> np.ndarray:
        used = self._gram[: weights.shape[-1]]
        if not exact or self.precise:
            return weights.astype(used.dtype) @ used
        total = sum(
            weights[start : start + _EXACT_ROWS] @ used[start : start + _EXACT_ROWS].astype(np.float64)
            for start in range(0, len(weights), _EXACT_ROWS)
        )
        assert isinstance(total, np.ndarray), "a slot is in use"
        return total


class FactorProducts:
    """Products computed from the rows' factors: no matrix is held, and a pick costs O(N C D)."""

    precise = supports_leaps = False

    def __init__(self, rows: Rows, unit: float = 1.0):
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
