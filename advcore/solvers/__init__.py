"""Rows and a count in, indices and weights out; numerics only, no model, no data."""

from advcore.solvers.craig import Craig
from advcore.solvers.easycore import EasyCore
from advcore.solvers.gradmatch import GradMatch
from advcore.solvers.scored import CCS, ByScore, Moderate
from advcore.solvers.uniform import Random

SOLVERS = {
    "random": Random,
    "craig": Craig,
    "gradmatch": GradMatch,
    "easycore": EasyCore,
    "by_score": ByScore,
    "moderate": Moderate,
    "ccs": CCS,
}
