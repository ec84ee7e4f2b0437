"""The statistics of pages: right by hand and by scipy, rarely wrong where there is nothing, and not blind."""

import math

import numpy as np
import pytest
import scipy.stats

from advcore.reporting.statistics import Difference, compare_all, correct, estimate_mean


def simulate(rng, seeds: int, splits: str, pairs: int = 2, planted: float = 0) -> list[Difference]:
    """Differences of several pairs of methods: those of one seed, and of one split, share an effect."""
    cells = {
        "one": [(seed, 0) for seed in range(seeds)],
        "with the seed": [(seed, seed) for seed in range(seeds)],
        "crossed": [(seed, split) for seed in range(seeds) for split in range(3)],
    }[splits]
    of_seed, of_split = rng.normal(size=seeds), rng.normal(size=seeds + 3) * (splits != "one")
    noise = rng.normal(size=(len(cells), pairs))
    return [
        Difference(planted + of_seed[seed] + of_split[split] + value, seed, split)
        for (seed, split), values in zip(cells, noise.tolist(), strict=True)
        for value in values
    ]


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("splits", "runs"), [
    ("one", 1500), ("crossed", 150),
    *(pytest.param(splits, 8000, marks=pytest.mark.slow) for splits in ("one", "with the seed", "crossed")),
])  # fmt: skip
def test_of_differences_that_are_chance_at_most_6_percent_are_significant_at_5(seeds, splits, runs):
    rng = np.random.default_rng(seeds)
    p_values = [estimate_mean(simulate(rng, seeds, splits)).p for _ in range(runs)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.06


def test_pairs_taken_as_independent_would_be_significant_far_too_often():
    """So that the simulation can fail."""
    rng = np.random.default_rng(3)
    values = [[entry.value for entry in simulate(rng, 5, "one", pairs=4)] for _ in range(300)]
    assert np.mean(scipy.stats.ttest_1samp(values, 0, axis=1).pvalue < 0.05) > 0.2


@pytest.mark.parametrize(("seeds", "planted", "least"), [(3, 5, 0.35), (3, 10, 0.8), (5, 5, 0.95), (10, 3, 0.95)])
def test_a_planted_difference_is_told(seeds, planted, least):
    """Of so many deviations between seeds, among four comparisons whose others are chance."""
    rng = np.random.default_rng(seeds)
    verdicts, false = [], []
    for _ in range(50):
        page = compare_all({name: simulate(rng, seeds, "one", planted=-planted * (name == 0)) for name in range(4)})
        verdicts.append(page[0].verdict)
        false.append({page[name].verdict for name in (1, 2, 3)} != {"level"})
        assert page[0].among == 4
    assert verdicts.count("below") / 50 >= least and "beats" not in verdicts
    assert np.mean(false) <= 0.1  # 5 %, and what 50 pages can be off by


def test_of_pages_of_chance_at_most_6_percent_hold_a_verdict():
    rng = np.random.default_rng(0)
    pages = [compare_all({name: simulate(rng, 4, "one", pairs=1) for name in range(4)}) for _ in range(500)]
    assert np.mean([any(one.verdict != "level" for one in page.values()) for page in pages]) <= 0.06


def test_each_seed_counts_once_by_the_mean_of_its_differences():
    values = [(0, 1.0), (0, 2.0), (0, 6.0), (1, 1.0), (2, 2.0), (2, 3.0)]
    estimate = estimate_mean([Difference(value, seed) for seed, value in values])
    expected = scipy.stats.ttest_1samp([3.0, 1.0, 2.5], 0)
    assert (estimate.freedom, estimate.count, estimate.mean) == (2, 6, pytest.approx(6.5 / 3))
    assert estimate.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (estimate.mean - estimate.half_width, estimate.mean + estimate.half_width) == pytest.approx((low, high))


def test_the_larger_of_nested_clusters_count_and_crossed_ones_both():
    """Seeds 0 to 3 on two splits: two clusters. Two seeds on two splits: variances of both, by hand."""
    nested = estimate_mean([Difference(value, seed, seed // 2) for seed, value in enumerate((1.0, 2.0, 5.0, 6.0))])
    assert (nested.mean, nested.error, nested.freedom) == (3.5, pytest.approx(2.0), 1)
    several = estimate_mean([Difference(value, 7, split) for split, value in enumerate((1.0, 2.0, 3.0))])
    assert (several.mean, several.error, several.freedom) == (2.0, pytest.approx(1 / math.sqrt(3)), 2)
    values = {(0, 0): 1.0, (0, 1): 2.0, (1, 0): 4.0, (1, 1): 9.0}
    crossed = estimate_mean([Difference(value, *cell) for cell, value in values.items()])
    by_seed, by_split = np.var([1.5, 6.5], ddof=1) / 2, np.var([2.5, 5.5], ddof=1) / 2
    assert (crossed.mean, crossed.error, crossed.freedom) == (4.0, pytest.approx(math.sqrt(by_seed + by_split)), 1)


@pytest.mark.parametrize("values", [[3.0], [0.1 + 0.2, 0.3], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
def test_what_cannot_be_tested_is_level_and_no_comparison(values):
    """A single seed, and seeds that do not differ at all: accuracies are counts of images, and can agree by chance."""
    page = compare_all({
        "untested": [Difference(value, seed) for seed, value in enumerate(values)],
        "tested": [Difference(value, seed) for seed, value in enumerate((9.0, 10.0, 11.0))],
    })  # fmt: skip
    untested, tested = page["untested"], page["tested"]
    assert (untested.verdict, untested.estimate.p, untested.estimate.half_width) == ("level", 1.0, math.inf)
    assert (tested.verdict, tested.among, tested.corrected) == ("beats", 1, tested.estimate.p)


def test_holms_correction_of_a_hand_worked_case():
    corrected = correct({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": 0.9})
    assert corrected == pytest.approx({"d": 0.025, "a": 0.04, "c": 0.09, "b": 0.09, "e": 0.9})
    assert correct({}) == {} and correct({"a": 0.5, "b": 0.6}) == {"a": 1.0, "b": 1.0}
