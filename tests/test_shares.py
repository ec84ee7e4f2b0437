"""Shares that add up."""

from fractions import Fraction

from hypothesis import given, settings, strategies

from advcore.shares import apportion

SIZES = strategies.lists(strategies.integers(0, 60), min_size=1, max_size=8)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(sizes=SIZES, share=strategies.fractions(0, 1))
def test_shares_sum_to_the_total_and_stay_within_one_of_the_quota(sizes, share):
    total = int(share * sum(sizes))
    counts = apportion(total, sizes)
    assert sum(counts) == total
    for count, size in zip(counts, sizes, strict=True):
        assert 0 <= count <= size
        assert not sum(sizes) or abs(count - Fraction(total * size, sum(sizes))) < 1


@settings(deadline=None, derandomize=True, max_examples=100)
@given(sizes=SIZES, share=strategies.fractions(0, 1))
def test_one_seat_at_a_time_to_the_largest_remainder(sizes, share):
    total = int(share * sum(sizes))
    quotas = [Fraction(total * size, max(sum(sizes), 1)) for size in sizes]
    counts = [int(quota) for quota in quotas]
    while sum(counts) < total:
        left = [quota - count for quota, count in zip(quotas, counts, strict=True)]
        counts[left.index(max(left))] += 1
    assert apportion(total, sizes) == counts


def test_a_hand_worked_case():
    assert apportion(10, [53, 24, 23]) == [5, 3, 2]  # quotas 5.3, 2.4, 2.3


def test_ties_go_to_the_lower_position():
    assert apportion(2, [5, 5, 5]) == [1, 1, 0]


def test_everything_and_nothing():
    assert apportion(9, [2, 0, 7]) == [2, 0, 7]
    assert apportion(0, [2, 0, 7]) == [0, 0, 0]
    assert apportion(0, [0, 0]) == [0, 0]


def test_large_counts_are_exact():
    sizes = [3 * 10**17 + 1, 7 * 10**17 - 1]  # beyond what float64 holds
    assert apportion(10**18, sizes) == sizes
