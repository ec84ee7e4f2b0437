"""The rows in use, with their least-squares weights: rows join and leave, nothing is solved from scratch."""

import numpy as np

_PANEL = 512  # rows of B that are read together, small enough to be in cache for a second use


class ActiveSet:
    """Weights w that solve A w = b on a growing and shrinking support, in float64; A is its Gram matrix plus ridge.

    Parameters
    ----------
    capacity : most rows it can hold.
    dependent : pivot over diagonal below which a row is a combination of the others.
    nonnegative : `settle` keeps weights > 0, rows whose weight reaches 0 leave.

    Each row has a slot, which is freed when it leaves. B with B^T B = A^-1 is kept, zero where a slot is free: joining
    adds a row to it (Cholesky), leaving turns all of the row's part into one row of B, which is dropped (a Householder
    reflection). Each costs O(m^2), in matrix-vector products; memory is 8 capacity^2 bytes.
    """

    def __init__(self, capacity: int, *, dependent: float = 1e-12, nonnegative: bool = True):
        self.members = np.full(capacity, -1)
        self.weights = np.zeros(capacity)
        self.high = 0  # slots in use or used before
        self._wanted = np.zeros(capacity)
        self._since = np.full(capacity, -1)
        self._inverse = np.zeros((capacity, capacity))
        self._reach = np.zeros(-(-capacity // _PANEL), dtype=np.int64)  # columns that a panel of B may fill
        self._dependent, self._nonnegative, self._joined = dependent, nonnegative, 0

    @classmethod
    def solved(cls, inverse: np.ndarray, weights: np.ndarray, wanted: np.ndarray) -> "ActiveSet":
        """All rows in use, at `weights`, on the way to `wanted`; `inverse` is B."""
        m = len(weights)
        active = cls(0)
        active.members, active.weights, active.high = np.arange(m), weights.copy(), m
        active._wanted, active._since, active._inverse = wanted.copy(), np.arange(m), inverse
        active._reach = np.full(-(-m // _PANEL), m)
        return active

    @property
    def slots(self) -> np.ndarray:
        """Of the rows in use, in the order they joined."""
        used = np.flatnonzero(self.members[: self.high] >= 0)
        return used[np.argsort(self._since[used])]

    @property
    def size(self) -> int:
        """How many rows are in use."""
        return int(np.count_nonzero(self.members[: self.high] >= 0))

    @property
    def newest(self) -> int:
        """The slot of the row that joined last, if it is still in use."""
        return int(self._since.argmax())

    def must_leave(self) -> bool:
        """Whether a refit turns a weight negative."""
        return len(self._falling()) > 0

    def undo(self, weights: np.ndarray) -> None:
        """Take the last join back, if nobody has left since; `weights` are those before it, (high,) or fewer."""
        slot = self.newest
        self._inverse[slot] = 0
        self.members[slot], self._since[slot] = -1, -1
        self.weights[: self.high], self._wanted[: self.high] = 0, 0
        self.weights[: len(weights)], self._wanted[: len(weights)] = weights, weights

    def free_slot(self) -> int:
        """Where the next row goes."""
        free = np.flatnonzero(self.members[: self.high] < 0)
        return int(free[0]) if len(free) else self.high

    def join(self, member: int, column: np.ndarray, diagonal: float, left: float) -> bool:
        """Let row `member` in and refit.

        `column`: (high,) its products with the members (anything at free slots); `diagonal`: with itself, plus ridge;
        `left`: b less what the weights explain, at it. False, and nothing changes, if it is linearly dependent.
        """
        slot = self.free_slot()
        towards, explained = self._solved(column)
        pivot = diagonal - explained
        if pivot <= self._dependent * diagonal:
            return False
        root = np.sqrt(pivot)
        self._inverse[slot, : self.high] = -towards / root
        self._inverse[slot, slot] = 1 / root
        step = left / pivot
        self._wanted[: self.high] -= step * towards
        self._wanted[slot] = step
        self.members[slot], self._since[slot] = member, self._joined
        self.high, self._joined = max(self.high, slot + 1), self._joined + 1
        self._reach[slot // _PANEL] = self.high
        return True

    def correct(self, left: np.ndarray) -> None:
        """Refit for what rounding left over: b - A w, (high,), anything at free slots."""
        self._wanted[: self.high] += self._solved(left)[0]

    def settle(self) -> list[int]:
        """Take the refitted weights. With `nonnegative`, walk towards them until the first reaches 0, let that row
        leave, refit, and so on (Lawson and Hanson 1974, chapter 23). Returns who left."""
        gone: list[int] = []
        while len(falling := self._falling()):
            drop = self.weights[falling] - self._wanted[falling]
            strides = np.divide(self.weights[falling], drop, out=np.zeros(len(falling)), where=drop > 0)
            self.weights = np.maximum(self.weights + strides.min() * (self._wanted - self.weights), 0)
            for slot in falling[strides <= strides.min()].tolist():
                gone.append(int(self.members[slot]))
                self._leave(slot)
        self.weights[: self.high] = self._wanted[: self.high]
        return gone

    def _falling(self) -> np.ndarray:
        """The slots whose refitted weight may not stay."""
        return np.flatnonzero(self._nonnegative & (self._wanted[: self.high] <= 0) & (self.members[: self.high] >= 0))

    def _leave(self, slot: int) -> None:
        """The row at `slot` leaves; the others' weights are refitted."""
        own = self._inverse[: self.high, slot].copy()
        squared, sign = own @ own, 1.0 if own[slot] >= 0 else -1.0
        mirror = own.copy()  # the reflection that takes `own` to its own slot alone
        mirror[slot] += sign * np.sqrt(squared)
        along = self._transposed(mirror) / (squared + abs(own[slot]) * np.sqrt(squared))
        for start in range(0, self.high, _PANEL):
            part = mirror[start : start + _PANEL]
            if part.any():
                self._inverse[start : start + len(part), : self.high] -= part[:, None] * along
                self._reach[start // _PANEL] = self.high
        column = -sign * np.sqrt(squared) * self._inverse[slot, : self.high]  # of A^-1
        self._wanted[: self.high] -= self._wanted[slot] / squared * column
        self._inverse[slot], self._inverse[:, slot] = 0, 0
        self.members[slot], self.weights[slot], self._wanted[slot], self._since[slot] = -1, 0, 0, -1

    def _solved(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """(high,) A^-1 x = B^T B x, and x^T A^-1 x, which is how much of x's row the members explain."""
        out, explained = np.zeros(self.high), 0.0
        for _, panel in self._panels():
            z = panel @ x[: panel.shape[1]]
            out[: panel.shape[1]] += z @ panel
            explained += float(z @ z)
        return out, explained

    def _transposed(self, y: np.ndarray) -> np.ndarray:
        """(high,) B^T y."""
        out = np.zeros(self.high)
        for start, panel in self._panels():
            out[: panel.shape[1]] += y[start : start + len(panel)] @ panel
        return out

    def _panels(self):
        """The rows of B a panel at a time, without the columns that none of its rows reaches."""
        for start in range(0, self.high, _PANEL):
            yield start, self._inverse[start : min(start + _PANEL, self.high), : self._reach[start // _PANEL]]
