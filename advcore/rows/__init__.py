"""Gradient rows, one for each example: as factors, written out, or as means of blocks of examples.

All kinds of rows have the same methods. Sums and inner products are taken in float64, a few hundred rows at a time,
whatever the rows are stored in.
"""

from advcore.rows.factored import KINDS, FactoredRows, find_first_not_finite
from advcore.rows.written_out import ALL, BlockRows, DenseRows, Where, cut

__all__ = ["ALL", "KINDS", "BlockRows", "DenseRows", "FactoredRows", "Rows", "Where", "cut", "find_first_not_finite"]

Rows = FactoredRows | DenseRows | BlockRows
