"""The rows in use and their least-squares weights, updated as rows join and leave instead of solved from scratch."""

from collections.abc import Iterator

import numpy as np

_PANEL = 512  # rows of B that are read together: few enough to still be in cache for their second use


class ActiveSet:
    """Weights w that solve A w = b on a growing and shrinking set of rows, in float64.

    A is the Gram matrix of the rows in use, with the ridge on its diagonal; b holds their correlations with the target.
    Each row in use has a slot, which is free again when the row leaves. Each change of rows refits the weights:
    `settle` takes the refitted weights.

    Parameters
    ----------
    capacity : how many rows can be in use at most.
    dependent : a row whose pivot is at most this share of its diagonal entry is a combination of the others.
    nonnegative : whether `settle` keeps all weights above 0, by dropping rows.

    `members` (capacity,) holds the row in each slot, -1 where it is free; `weights` (capacity,) the weight of each one,
    0 where it is free. `high` is the number of slots in use or used before: all later slots are free.

    What is stored is a matrix B with B^T B = A^-1, whose row and column of a free slot are 0. A row that joins adds a
    row to B (Cholesky). For a row that leaves, a Householder reflection moves all of its column of B into a single row
    of B, which is then dropped. Each costs O(m^2) for m rows in use, as matrix-vector products; memory is
    8 capacity^2 bytes.
    """

    def __init__(self, capacity: int, *, dependent: float = 1e-12, nonnegative: bool = True) -> None:
        self.members = np.full(capacity, -1)
        self.weights = np.zeros(capacity)
        self.high = 0
        self._refitted = np.zeros(capacity)
        self._join_number = np.full(capacity, -1)  # counts joins; -1 where the slot is free
        self._joins = 0
        self._inverse = np.zeros((capacity, capacity))  # B
        self._panel_widths = np.zeros(-(-capacity // _PANEL), dtype=np.int64)  # columns that a panel of B may fill
        self._dependent, self._nonnegative = dependent, nonnegative

    @classmethod
    def from_inverse(cls, inverse: np.ndarray, weights: np.ndarray, refitted: np.ndarray) -> "ActiveSet":
        """Build a set in which all m rows are in use, at `weights`, and are to walk to `refitted`; `inverse` is B."""
        m = len(weights)
        active = cls(0)
        active.members, active._join_number = np.arange(m), np.arange(m)
        active.weights, active._refitted = weights.copy(), refitted.copy()
        active.high = m
        active._inverse = inverse
        active._panel_widths = np.full(-(-m // _PANEL), m)
        return active

    @property
    def slots(self) -> np.ndarray:
        """Slots of the rows in use, in the order in which the rows joined."""
        used = np.flatnonzero(self.members[: self.high] >= 0)
        return used[np.argsort(self._join_number[used])]

    @property
    def size(self) -> int:
        """How many rows are in use."""
        return int(np.count_nonzero(self.members[: self.high] >= 0))

    @property
    def newest(self) -> int:
        """The slot of the row that joined last, if that row is still in use."""
        return int(self._join_number.argmax())

    def has_rows_to_drop(self) -> bool:
        """Return whether a refitted weight is not positive, so that `settle` would drop a row."""
        return len(self._find_falling()) > 0

    def undo_join(self, weights: np.ndarray) -> None:
        """Take the last join back, provided that no row left since; `weights` (capacity,) are those before it."""
        slot = self.newest
        self._inverse[slot] = 0
        self.members[slot] = self._join_number[slot] = -1
        self.weights[:] = self._refitted[:] = weights

    def find_free_slot(self) -> int:
        """Return the slot of the next row to join: the lowest free one."""
        return int(self.members.argmin())

    def join(self, member: int, column: np.ndarray, diagonal: float, correlation: float) -> bool:
        """Add row `member` and refit; return False, with nothing changed, if it is linearly dependent on the others.

        column : (high,) its inner products with the members; entries of free slots do not matter.
        diagonal : its inner product with itself, plus the ridge.
        correlation : its correlation with the residual, which is its entry of b less what the weights explain of it.
        """
        solution, explained = self._solve(column)
        pivot = diagonal - explained
        if pivot <= self._dependent * diagonal:
            return False
        slot = self.find_free_slot()
        root = np.sqrt(pivot)
        self._inverse[slot, : self.high] = -solution / root
        self._inverse[slot, slot] = 1 / root
        weight = correlation / pivot
        self._refitted[: self.high] -= weight * solution
        self._refitted[slot] = weight
        self.members[slot] = member
        self._join_number[slot] = self._joins
        self._joins += 1
        self.high = max(self.high, slot + 1)
        self._panel_widths[slot // _PANEL] = self.high
        return True

    def correct(self, error: np.ndarray) -> None:
        """Refit for what rounding left over: `error` is b - A w, (high,); entries of free slots do not matter."""
        self._refitted[: self.high] += self._solve(error)[0]

    def settle(self) -> list[int]:
        """Take the refitted weights, and return the rows that left for it.

        With `nonnegative`, walk from the weights towards the refitted ones until the first reaches 0, drop its row,
        refit, and repeat (Lawson and Hanson 1974, chapter 23).
        """
        dropped: list[int] = []
        while len(falling := self._find_falling()):
            # the shares of the way after which each falling weight reaches 0
            drop = self.weights[falling] - self._refitted[falling]
            strides = np.divide(self.weights[falling], drop, out=np.zeros(len(falling)), where=drop > 0)
            self.weights = np.maximum(self.weights + strides.min() * (self._refitted - self.weights), 0)
            for slot in falling[strides <= strides.min()].tolist():
                dropped.append(int(self.members[slot]))
                self._remove(slot)
        self.weights[: self.high] = self._refitted[: self.high]
        return dropped

    def _find_falling(self) -> np.ndarray:
        """Return the slots whose refitted weight is not positive, none if weights may have any sign."""
        return np.flatnonzero(self._nonnegative & (self._refitted[: self.high] <= 0) & (self.members[: self.high] >= 0))

    def _remove(self, slot: int) -> None:
        """Free a slot, and refit the weights of the others."""
        column = self._inverse[: self.high, slot].copy()
        squared = column @ column
        norm = np.sqrt(squared)
        sign = 1.0 if column[slot] >= 0 else -1.0
        mirror = column.copy()  # the vector whose reflection turns `column` into a multiple of the slot's unit vector
        mirror[slot] += sign * norm
        along = self._multiply_transposed(mirror) / (squared + abs(column[slot]) * norm)
        for start in range(0, self.high, _PANEL):
            part = mirror[start : start + _PANEL]
            if part.any():
                self._inverse[start : start + len(part), : self.high] -= part[:, None] * along
                self._panel_widths[start // _PANEL] = self.high
        column_of_inverse = -sign * norm * self._inverse[slot, : self.high]  # the slot's column of A^-1
        self._refitted[: self.high] -= self._refitted[slot] / squared * column_of_inverse
        self._inverse[slot] = self._inverse[:, slot] = 0
        self.weights[slot] = self._refitted[slot] = 0
        self.members[slot] = self._join_number[slot] = -1

    def _solve(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """Return A^-1 x = B^T B x, (high,), and x^T A^-1 x.

        The latter is how much the members explain of the row whose products with them are x.
        """
        solution = np.zeros(self.high)
        explained = 0.0
        for _, panel in self._iterate_panels():
            width = panel.shape[1]
            z = panel @ x[:width]
            solution[:width] += z @ panel
            explained += float(z @ z)
        return solution, explained

    def _multiply_transposed(self, y: np.ndarray) -> np.ndarray:
        product = np.zeros(self.high)
        for start, panel in self._iterate_panels():
            product[: panel.shape[1]] += y[start : start + len(panel)] @ panel
        return product

    def _iterate_panels(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rows of B, a panel at a time with its first row's number, cut to the columns that may be filled."""
        for start in range(0, self.high, _PANEL):
            yield start, self._inverse[start : min(start + _PANEL, self.high), : self._panel_widths[start // _PANEL]]
