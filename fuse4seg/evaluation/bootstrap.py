"""Means over cases where there is a value, their confidence intervals, and a paired test between two methods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, wilcoxon

LEVEL, RESAMPLES = 0.95, 9999
#: Fewer pairs cannot reach p < .05 in a two-sided signed-rank test.
FEWEST_PAIRS = 6


def defined(values: Iterable[float]) -> list[float]:
    """Those that are not NaN.

    Example:
        >>> defined([0.5, math.nan, 1.0])
        [0.5, 1.0]
    """
    return [value for value in values if not math.isnan(value)]


def defined_mean(values: Iterable[float]) -> float:
    """Mean of those that are not NaN; NaN where all are.

    Example:
        >>> defined_mean([0.5, math.nan, 1.0])
        0.75
    """
    found = defined(values)
    return float(np.mean(found)) if found else math.nan


def shown_interval(interval: tuple[float, float]) -> str:
    """As tables show it; a case alone has none.

    Example:
        >>> shown_interval((0.5, 0.75)), shown_interval((math.nan, math.nan))
        ('0.5000 to 0.7500', '-')
    """
    low, high = interval
    return "-" if math.isnan(low) else f"{low:.4f} to {high:.4f}"


def mean_interval(values: Sequence[float], *, seed: int = 0, comparisons: int = 1) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over cases (percentile method); NaN values are left out.

    Args:
        values: One per case.
        seed: Of the 9999 resamples.
        comparisons: Intervals that are to hold all together (Bonferroni: each leaves out that part of the 5 %).

    Returns:
        Lowest and highest; NaN for fewer than two values.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; scipy.stats.bootstrap.

    Example:
        >>> low, high = mean_interval([0.70, 0.75, 0.80, 0.85, 0.90])
        >>> round(low, 2), round(high, 2)
        (0.74, 0.86)
    """
    found = defined(values)
    if len(found) < 2:
        return math.nan, math.nan
    level = 1 - (1 - LEVEL) / comparisons
    interval = bootstrap((np.array(found),), np.mean, confidence_level=level, n_resamples=RESAMPLES, method="percentile",
                         rng=np.random.default_rng(seed)).confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class PairedTest:
    """One method against another on the same cases.

    Attributes:
        pairs: Cases where both are defined.
        left_out: The others.
        difference: Mean of first minus second; NaN without pairs.
        interval: 95 % bootstrap interval of that mean.
        p: Two-sided Wilcoxon signed-rank test; NaN where all differences are 0.
    """

    pairs: int
    left_out: int
    difference: float
    interval: tuple[float, float]
    p: float


def paired_test(first: Sequence[float], second: Sequence[float], *, seed: int = 0, comparisons: int = 1) -> PairedTest:
    """Compare two methods case by case.

    Args:
        first: One value per case, NaN where undefined.
        second: Of the same cases in the same order.
        seed: Of the interval.
        comparisons: As :func:`mean_interval` takes them; p is not corrected.

    Raises:
        ValueError: The lengths differ.

    Source: scipy.stats.wilcoxon.

    Example:
        >>> found = paired_test([0.75, 0.75, 1.0], [0.5, 0.5, math.nan])
        >>> found.pairs, found.left_out, found.difference
        (2, 1, 0.25)
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    found = defined(differences)
    p = float(wilcoxon(found).pvalue) if any(found) else math.nan
    return PairedTest(len(found), len(differences) - len(found), defined_mean(found),
                      mean_interval(found, seed=seed, comparisons=comparisons), p)
