"""Confidence intervals of a mean over cases, and a paired test between two methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, wilcoxon

LEVEL, RESAMPLES = 0.95, 9999
#: Fewer pairs cannot reach p < .05 in a two-sided signed-rank test.
FEWEST_PAIRS = 6


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over cases (percentile method); NaN values are left out.

    Args:
        values: One per case.
        seed: Of the 9999 resamples.

    Returns:
        Lowest and highest; NaN for fewer than two values.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; scipy.stats.bootstrap.
    """
    defined = [value for value in values if not math.isnan(value)]
    if len(defined) < 2:
        return math.nan, math.nan
    found = bootstrap((np.array(defined),), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="percentile",
                      rng=np.random.default_rng(seed)).confidence_interval
    return float(found.low), float(found.high)


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


def paired_test(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> PairedTest:
    """Compare two methods case by case.

    Args:
        first: One value per case, NaN where undefined.
        second: Of the same cases in the same order.
        seed: Of the interval.

    Raises:
        ValueError: The lengths differ.

    Source: scipy.stats.wilcoxon.
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    defined = np.array([value for value in differences if not math.isnan(value)])
    p = float(wilcoxon(defined).pvalue) if defined.any() else math.nan
    return PairedTest(len(defined), len(differences) - len(defined), float(defined.mean()) if len(defined) else math.nan,
                      mean_interval(defined.tolist(), seed=seed), p)
