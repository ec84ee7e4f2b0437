"""An accuracy with its confidence interval."""

import math
from dataclasses import dataclass

_Z = 1.959963984540054  # 97.5 % quantile of the standard normal


@dataclass(frozen=True)
class Accuracy:
    """An `accuracy`, the share of `n` examples classified right, with its 95 % Wilson `interval` (low, high)."""

    accuracy: float
    n: int
    interval: tuple[float, float]

    def as_dict(self) -> dict[str, object]:
        """Return the accuracy as the record of a run holds it."""
        return {"n": self.n, "accuracy": self.accuracy, "interval": list(self.interval)}


def wilson(correct: int, n: int) -> Accuracy:
    """Compute the accuracy `correct / n` with its 95 % score interval; of no example, 0 with the interval (0, 1).

    Reference: Wilson 1927; Brown, Cai, DasGupta 2001, eq. 4.
    """
    if not n:
        return Accuracy(0.0, 0, (0.0, 1.0))
    share = correct / n
    z2 = _Z**2 / n
    centre = (share + z2 / 2) / (1 + z2)
    half_width = _Z / (1 + z2) * math.sqrt(share * (1 - share) / n + z2 / (4 * n))
    low = max(0.0, min(share, centre - half_width))
    high = min(1.0, max(share, centre + half_width))
    return Accuracy(share, n, (low, high))
