"""Test differences between methods: paired, clustered by seed and data split, corrected for how many are looked at."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from scipy.special import stdtr, stdtrit

# The chance of at least one false "beats" or "below" among all comparisons of a page.
LEVEL = 0.05
# A deviation below this share of the mean is rounding, and tells nothing of how runs vary.
_ROUNDING = 1e-9

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Difference:
    """What a run reaches more than a run of another method.

    value : of the first run less that of the second. seed, split : what both runs have in common.
    """

    value: float
    seed: int
    split: int = 0


@dataclass(frozen=True)
class Estimate:
    """A mean difference and how sure it is.

    mean : of all clusters. error : its standard error.
    freedom : degrees of freedom, the number of clusters less one; 0 where nothing can be tested.
    count : the number of differences.
    """

    mean: float
    error: float
    freedom: int
    count: int

    @property
    def half_width(self) -> float:
        """Return half the 95 % interval of this mean alone, not corrected for others; infinite without a test."""
        if not self.freedom:
            return math.inf
        return float(stdtrit(self.freedom, 1 - LEVEL / 2)) * self.error

    @property
    def p(self) -> float:
        """Return the two-sided p-value of the mean being 0; 1 where nothing can be tested."""
        if not self.freedom:
            return 1.0
        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error))


@dataclass(frozen=True)
class Comparison:
    """An estimate among others on a page.

    estimate : the mean difference and its test, uncorrected.
    corrected : the p-value after Holm's correction. among : how many comparisons the page tests.
    """

    estimate: Estimate
    corrected: float
    among: int

    @property
    def verdict(self) -> str:
        """Return "beats", "below" or, where the two cannot be distinguished, "level"."""
        if self.corrected > LEVEL:
            return "level"
        if self.estimate.mean > 0:
            return "beats"
        return "below"


def estimate_mean(differences: Sequence[Difference]) -> Estimate:
    """Estimate the mean of paired differences, for a t-test over clusters.

    Differences of one seed share initial weights and the order of batches, those of one data split share examples. So
    each seed counts once, by the mean of its differences, and the test is over these means, with one degree of freedom
    less than there are seeds. Where splits have their own seeds, each split counts once instead. Where the same
    seeds run on several splits, the variances over seeds and over splits are added and the smaller number of degrees
    of freedom is taken: too careful rather than too bold. Clusters that all have the same mean tell nothing of how runs
    vary, and are not tested.

    Reference: Ibragimov and Müller (2010), "t-statistic based correlation and heterogeneity robust inference": valid at
    a level of 5 % also where the variances of clusters differ.
    """
    groups = _group_by_cluster(differences)
    means = [[fmean(values) for values in clusters] for clusters in groups]
    mean = fmean(map(fmean, means))
    error = math.sqrt(sum(_square_error(entries) for entries in means))
    freedom = min(map(len, means)) - 1
    if error <= _ROUNDING * max(1.0, abs(mean)):
        freedom = 0
    return Estimate(mean, error, freedom, len(differences))


def _group_by_cluster(differences: Sequence[Difference]) -> list[list[list[float]]]:
    """Return the values by seed or by split, or both ways where the same seeds run on several splits."""
    by_seed: dict[int, list[float]] = {}
    by_split: dict[int, list[float]] = {}
    for entry in differences:
        by_seed.setdefault(entry.seed, []).append(entry.value)
        by_split.setdefault(entry.split, []).append(entry.value)
    ways = [list(way.values()) for way in sorted((by_seed, by_split), key=len)]
    cells = len({(entry.seed, entry.split) for entry in differences})
    if cells > len(ways[1]):
        return ways
    if len(ways[0]) > 1:  # one way lies within the other: the larger clusters are the independent ones
        return ways[:1]
    return ways[1:]


def _square_error(values: Sequence[float]) -> float:
    """Return the variance of the mean of independent values; 0 for a single one."""
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values) / (max(1, len(values) - 1) * len(values))


def compare_all(questions: Mapping[Key, Sequence[Difference]]) -> dict[Key, Comparison]:
    """Test all comparisons of a page, each with at least one difference, with Holm's correction.

    What cannot be tested, of a single cluster for instance, is "level" and not counted among the comparisons.
    """
    estimates = {key: estimate_mean(differences) for key, differences in questions.items()}
    tested = {key: estimate.p for key, estimate in estimates.items() if estimate.freedom}
    corrected = correct(tested)
    return {key: Comparison(estimate, corrected.get(key, 1.0), len(tested)) for key, estimate in estimates.items()}


def correct(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Correct p-values so that the chance of any false one among them stays at its level.

    Reference: Holm (1979), "A simple sequentially rejective multiple test procedure": the smallest is multiplied by
    their number, the next by one less, and so on, and none becomes smaller than one before it.
    """
    corrected: dict[Key, float] = {}
    largest = 0.0
    for done, key in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[key]))
        corrected[key] = largest
    return corrected
