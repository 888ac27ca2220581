"""Medians, spread, and intervals of paired ratios."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = [
    "Interval",
    "exponent",
    "median",
    "paired_ratio_interval",
    "percentile",
    "ratio_of_medians",
    "spread",
]

# Enough for the second digit of an interval's ends; a tenth of a second for 15 pairs.
_RESAMPLES = 4000
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and how far it may be off: ends and middle, in ascending order."""

    low: float
    mid: float
    high: float


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which so many percent of values lie, between neighbours by proportion.

    Args:
        values: in any order, at least one.
        percent: 0 to 100.
    """
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below, above = math.floor(place), math.ceil(place)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values: Sequence[float]) -> Interval:
    """Return the quartiles: of at least one value."""
    return Interval(percentile(values, 25), median(values), percentile(values, 75))


def ratio_of_medians(values: Sequence[float], base: Sequence[float]) -> float:
    """Return the median of values in units of the median of base, which is not 0."""
    return median(values) / median(base)


def paired_ratio_interval(values: Sequence[float], base: Sequence[float], seed: int = 0) -> Interval:
    """Return the median of the ratios of pairs, with its 95% interval.

    The interval is that of a bootstrap: pairs are drawn with replacement, again and again, and the middle 95%
    of their medians is returned. Of fewer than three pairs it is the least and the greatest ratio.

    Args:
        values: one value a round.
        base: the values of the same rounds that they are divided by; as many, none of them 0.
        seed: of the draws, so that the same values always give the same interval.
    """
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    middle = median(ratios)
    if len(ratios) < 3:
        return Interval(min(ratios), middle, max(ratios))
    chance = random.Random(seed)
    medians = [median(chance.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES)]
    return Interval(percentile(medians, 100 * _TAIL), middle, percentile(medians, 100 * (1 - _TAIL)))


def exponent(work: Sequence[float], cost: Sequence[float]) -> float:
    """Return k of the best fit of cost to work**k: 1 where cost grows as the work, 0 where it does not grow.

    Args:
        work: positive, at least two of them different.
        cost: positive, as many.
    """
    pairs = [(math.log(x), math.log(y)) for x, y in zip(work, cost, strict=True)]
    mean_x = sum(x for x, _ in pairs) / len(pairs)
    mean_y = sum(y for _, y in pairs) / len(pairs)
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / sum((x - mean_x) ** 2 for x, _ in pairs)
