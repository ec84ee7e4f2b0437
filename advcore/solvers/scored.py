"""Solvers that look at a single score for each example: the hardest, the easiest, the middle, or some of all."""

import torch
from torch import Tensor

from advcore.errors import SettingProblem, check_at_least, check_one_of, check_within, require
from advcore.rng import Stream
from advcore.rows import Rows
from advcore.settings import setting, settings
from advcore.shares import floor_share
from advcore.solvers.base import check_problem, refuse_target, weigh_equally
from advcore.types import Selection

SCORES = ("el2n", "grand", "margin", "forgetting", "instability", "centre_distance", "input_norm")
SCORE_ALIASES = {"aign": "input_norm", "gradnorm": "grand", "stability": "instability", "moderate": "centre_distance"}
POINTS = ("clean", "adversarial")
KEEP = ("hardest", "easiest", "middle")


@settings
class Scored:
    """Base of solvers that look at a single score for each example, the higher the harder; each pick weighs N / k.

    Parameters
    ----------
    points : "clean" images are scored, or "adversarial" ones, attacked with the selection's attack.
    scores : a file that `advcore score` wrote; None: scored in this run.
    """

    points: str = "clean"
    scores: str | None = None
    score = ""  # not annotated: a subclass may make it a setting, which then comes in that class's order

    def __post_init__(self) -> None:
        require(check_one_of("points", self.points, POINTS), *self._check_more())

    def _check_more(self) -> list[SettingProblem | None]:
        return []

    @property
    def reads(self) -> str:
        """The kind of row it needs."""
        return self.score if self.points == "clean" else f"adversarial_{self.score}"

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        check_problem(rows, k)
        refuse_target(self, target)
        return weigh_equally(self.choose(rows.dense()[:, 0], k, generator), len(rows))

    def choose(self, scores: Tensor, k: int, generator: Stream) -> Tensor:
        """Return the positions to pick, (k,) long, from scores (N,)."""
        raise NotImplementedError


def take_by_score(scores: Tensor, k: int, which: str) -> Tensor:
    """Return the positions of the "hardest" (highest scores), the "easiest", or the nearest to the median, (k,) long.

    Ties go to the lower index. Cost O(N log N).
    """
    keys = {"hardest": -scores, "easiest": scores, "middle": (scores - scores.median()).abs()}
    return torch.argsort(keys[which], stable=True)[:k]


@settings
class ByScore(Scored):
    """The k hardest, easiest or middle examples.

    Parameters
    ----------
    score : "el2n", "grand", "margin", "forgetting", "instability" (share of epochs misclassified; of attacked points, 1
        minus learning stability), "centre_distance" or "input_norm" (AIGN).
    keep : "hardest", "easiest" or "middle".
    points, scores : see `Scored`.

    Reference: Paul et al. 2021 (EL2N, GraNd: hardest), Toneva et al. 2019 (forgetting: hardest).
    """

    score: str = "el2n"
    keep: str = "hardest"

    def _check_more(self) -> list[SettingProblem | None]:
        return [check_one_of("score", self.score, SCORES, SCORE_ALIASES), check_one_of("keep", self.keep, KEEP)]

    def choose(self, scores: Tensor, k: int, generator: Stream) -> Tensor:
        return take_by_score(scores, k, self.keep)


@settings
class Moderate(Scored):
    """The k examples whose distance to their class's mean features is nearest to the median.

    Partition `per_class` is the paper's. Settings: see `Scored`.
    Reference: Xia et al. 2023, section 3.
    """

    score = "centre_distance"

    def choose(self, scores: Tensor, k: int, generator: Stream) -> Tensor:
        return take_by_score(scores, k, "middle")


@settings
class CCS(Scored):
    """Coverage-centric selection: drop the hardest examples, then pick evenly from all strata of the scores.

    The range of scores is cut into strata of equal width. Each gives the same number of examples, or all it has.

    Parameters
    ----------
    score : see `ByScore`; "margin" averaged over training is the paper's AUM with the sign turned.
    drop : beta, share of the examples that is dropped as too hard, in [0, 0.99]; less where k needs them.
    strata : number of strata, 1 to 100,000.
    points, scores : see `Scored`.

    Reference: Zheng et al. 2023, algorithm 1.
    """

    score: str = "margin"
    drop: float = setting(default=0.1, unit="share")
    strata: int = setting(default=50, unit="strata")

    def _check_more(self) -> list[SettingProblem | None]:
        return [
            check_one_of("score", self.score, SCORES, SCORE_ALIASES),
            check_within("drop", self.drop, 0, 0.99),
            check_at_least("strata", self.strata, 1, most=100_000),
        ]

    def choose(self, scores: Tensor, k: int, generator: Stream) -> Tensor:
        left = take_by_score(scores, max(k, len(scores) - floor_share(self.drop, len(scores))), "easiest")
        low, high = scores[left].aminmax()
        width = (high - low) / self.strata
        strata = ((scores[left] - low) / (width or 1)).long().clamp_max(self.strata - 1)  # equal scores are one stratum
        groups = sorted((left[strata == stratum] for stratum in strata.unique()), key=len)
        picks: list[Tensor] = []
        for i, group in enumerate(groups):  # the smallest first: what it lacks, the others give
            missing = k - sum(map(len, picks))
            order = generator.take(group).child("stratum").permutation()
            picks.append(group[order[: missing // (len(groups) - i)]])
        return torch.cat(picks)
