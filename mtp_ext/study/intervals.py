"""Estimates with their 95 % confidence intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_Z = 1.959964  # the normal distribution holds 95 % within this many standard deviations
_RESAMPLES = 2000

ALL_KINDS = "all texts"  # as a kind of text


class Interval(NamedTuple):
    """An estimate, and the two ends of its 95 % confidence interval."""

    estimate: float
    low: float
    high: float


def wilson(outcomes: Sequence[bool]) -> Interval:
    """A share, with Wilson's score interval, which stays within 0 and 1 and holds for few outcomes.

    Source: Wilson, "Probable inference", JASA 22 (1927).
    """
    n, share = len(outcomes), sum(outcomes) / len(outcomes)
    center = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    # Exactly, the interval holds the share and ends where it does at 0 and 1; rounding must not change that.
    return Interval(share, min(share, max(0.0, center - half)), max(share, min(1.0, center + half)))


def bootstrap(values: Sequence[float]) -> Interval:
    """A mean, with the percentile bootstrap interval; the same values always give the same interval.

    One value alone says nothing about the others: its interval is NaN.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) == 1:
        return Interval(float(sample[0]), math.nan, math.nan)
    picks = np.random.default_rng(0).integers(len(sample), size=(_RESAMPLES, len(sample)))
    low, high = np.quantile(sample[picks].mean(axis=1), [0.025, 0.975])
    return Interval(float(sample.mean()), float(low), float(high))
