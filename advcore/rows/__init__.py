"""Gradient rows, one for each example: as factors, written out, or as means of blocks of examples.

All kinds of rows answer the same calls. Sums and inner products are taken in float64, a few thousand rows at a time,
whatever the rows are stored in.
"""

import torch
from torch import Tensor

from advcore.rows.factored import KINDS, FactoredRows
from advcore.rows.positions import ALL, Where, cut
from advcore.rows.written_out import BlockRows, DenseRows

__all__ = ["ALL", "KINDS", "BlockRows", "DenseRows", "FactoredRows", "Rows", "Where", "cut", "first_not_finite"]

Rows = FactoredRows | DenseRows | BlockRows


def first_not_finite(squared_norms: Tensor) -> int | None:
    """Return the position of the first row with NaN or infinity, judged by its norm, or None."""
    positions = (~torch.isfinite(squared_norms)).nonzero()
    if len(positions) == 0:
        return None
    return int(positions[0])
