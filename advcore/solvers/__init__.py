"""Turns gradient rows and a count into indices and weights; numerics only, without model or data."""

from advcore.solvers.boundary import BoundaryKMeans
from advcore.solvers.craig import Craig
from advcore.solvers.easycore import EasyCore
from advcore.solvers.gradmatch import GradMatch
from advcore.solvers.rcs import RCS
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
    "boundary_kmeans": BoundaryKMeans,
    "rcs": RCS,
}
# what the field calls them, to their names here (`errors.suggest_nearest`)
ALIASES = {
    "uniform": "random",
    "facilitylocation": "craig",
    "lazygreedy": "craig",
    "submodular": "craig",
    "lcskm": "boundary_kmeans",
    "lcs": "boundary_kmeans",
    "kmeans": "boundary_kmeans",
    "gradientmatching": "gradmatch",
    "omp": "gradmatch",
    "orthogonalmatchingpursuit": "gradmatch",
    "aign": "easycore",
    "el2n": "by_score with score: el2n",
    "grand": "by_score with score: grand",
    "forgetting": "by_score with score: forgetting",
    "margin": "by_score with score: margin",
    "score": "by_score",
    "moderateds": "moderate",
    "moderatecoreset": "moderate",
    "coveragecentric": "ccs",
    "robustnessaware": "rcs",
    "representationaldivergence": "rcs",
}
