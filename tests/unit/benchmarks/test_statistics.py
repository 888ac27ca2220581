"""Medians, spread, intervals, exponents."""

from __future__ import annotations

import random

import pytest

from benchmarks.harness.statistics import (
    Interval,
    exponent,
    paired_ratio_interval,
    percentile,
    ratio_of_medians,
    spread,
)


def test_percentiles() -> None:
    """A percentile lies between its neighbours by proportion; the ends are the least and the greatest."""
    values = [4.0, 1.0, 3.0, 2.0]
    assert [percentile(values, percent) for percent in (0, 50, 90, 100)] == pytest.approx([1, 2.5, 3.7, 4])
    assert percentile([7.0], 99) == 7


def test_spread_is_quartiles() -> None:
    """The spread of values is their quartiles, of one value itself."""
    assert spread([1, 2, 3, 4, 5]) == Interval(2, 3, 4)
    assert spread([2]) == Interval(2, 2, 2)


def test_ratio_of_medians() -> None:
    """Medians are divided, not the values."""
    assert ratio_of_medians([1, 10, 100], [5, 5, 500]) == 2


def test_pairs_cancel_what_both_felt() -> None:
    """Where the machine slows both sides of a pair alike, the ratio's interval is narrow all the same."""
    chance = random.Random(3)
    noise = [chance.uniform(0.5, 2) for _ in range(15)]
    found = paired_ratio_interval([0.9 * factor for factor in noise], noise)
    assert (found.low, found.mid, found.high) == pytest.approx((0.9, 0.9, 0.9))


def test_the_interval_holds_the_middle() -> None:
    """The interval of noisy pairs lies around the median, and in the range of the ratios."""
    ratios = [0.8, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.3]
    found = paired_ratio_interval(ratios, [1.0] * len(ratios))
    assert 0.8 <= found.low < found.mid == 1.0 < found.high <= 1.3
    assert found == paired_ratio_interval(ratios, [1.0] * len(ratios))


def test_few_pairs_have_no_bootstrap() -> None:
    """Of one pair or two the interval is the ratios themselves."""
    assert paired_ratio_interval([2.0], [4.0]) == Interval(0.5, 0.5, 0.5)
    assert paired_ratio_interval([2.0, 6.0], [4.0, 4.0]) == Interval(0.5, 1.0, 1.5)


def test_pairs_must_pair() -> None:
    """Lists of different length are refused."""
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio_interval([1.0, 2.0], [1.0])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_exponent(power: float) -> None:
    """The exponent of a cost that is a power of the work is that power."""
    work = [1.0, 2.0, 5.0, 10.0]
    assert exponent(work, [3 * x**power for x in work]) == pytest.approx(power)
