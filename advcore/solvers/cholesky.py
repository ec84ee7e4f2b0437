"""The Cholesky factor of a Gram matrix that atoms join and leave."""

import numpy as np


class Cholesky:
    """L L^T = A for a growing and shrinking support, with L^-1 beside it, in float64.

    Joining and leaving cost O(m^2), and so does a solve; nothing is refitted from scratch. Keeping L^-1 makes
    each of them a matrix-vector product without a copy.
    """

    _DEPENDENT = 1e-12  # pivot over diagonal below which an atom is a combination of the others

    def __init__(self, capacity: int):
        self.size = 0
        self._factor = np.zeros((capacity, capacity))
        self._inverse = np.zeros((capacity, capacity))

    def append(self, column: np.ndarray, diagonal: float) -> bool:
        """Let an atom join: its products with the support (m,) and with itself. False, and nothing changes, if it
        is linearly dependent on the support to working precision."""
        m = self.size
        z = self._inverse[:m, :m] @ column
        pivot = diagonal - z @ z
        if pivot <= self._DEPENDENT * diagonal:
            return False
        root = np.sqrt(pivot)
        self._factor[m, :m], self._factor[m, m] = z, root
        self._inverse[m, :m], self._inverse[m, m] = -(z @ self._inverse[:m, :m]) / root, 1 / root
        self.size = m + 1
        return True

    def remove(self, p: int) -> None:
        """Let the atom at position `p` leave; Givens rotations make the rest triangular again."""
        m = self.size
        factor, inverse = self._factor[:m, :m], self._inverse[:m, :m]
        factor[p : m - 1] = factor[p + 1 :].copy()
        for q in range(p, m - 1):
            a, b = factor[q, q], factor[q, q + 1]
            r = np.hypot(a, b)
            turn = np.array([[a, -b], [b, a]]) / r
            factor[q : m - 1, q : q + 2] = factor[q : m - 1, q : q + 2] @ turn
            inverse[q : q + 2] = turn.T @ inverse[q : q + 2]
        inverse[:, p : m - 1] = inverse[:, p + 1 :].copy()
        self.size = m - 1
        for matrix in (factor, inverse):
            matrix[m - 1], matrix[:, m - 1] = 0, 0

    def solve(self, b: np.ndarray) -> np.ndarray:
        """(m,) the solution of A w = b."""
        inverse = self._inverse[: self.size, : self.size]
        return (inverse @ b) @ inverse
