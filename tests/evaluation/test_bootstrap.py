"""Intervals and paired tests: coverage, repeatability, SciPy's values, and few or equal cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from fuse4seg.evaluation.bootstrap import mean_interval, paired_test, shown_interval


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    intervals = [mean_interval(random.normal(3, 1, 40).tolist(), seed=seed) for seed in range(100)]
    assert 88 <= sum(low < 3 < high for low, high in intervals) <= 99


def test_the_interval_is_close_to_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.05, 200)
    half = 1.96 * values.std() / math.sqrt(200)
    assert mean_interval(values.tolist()) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_the_interval_leaves_nan_out_and_repeats() -> None:
    assert mean_interval([0.5, math.nan, 0.7, 0.9], seed=3) == mean_interval([0.5, 0.7, 0.9], seed=3)


def test_the_interval_of_one_case_is_not_defined() -> None:
    assert all(map(math.isnan, mean_interval([0.5, math.nan])))


def test_the_test_is_scipys_on_the_pairs_where_both_are_defined() -> None:
    random = np.random.default_rng(0)
    first, second = random.random((2, 12)).tolist()
    found = paired_test([*first, math.nan, 0.1], [*second, 0.2, math.nan])
    assert (found.pairs, found.left_out) == (12, 2)
    assert found.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert found.p == pytest.approx(wilcoxon(first, second).pvalue)
    assert found.interval[0] < found.difference < found.interval[1]


def test_of_equal_methods_there_is_no_p() -> None:
    found = paired_test([0.5, 0.6], [0.5, 0.6])
    assert found.difference == 0
    assert math.isnan(found.p)


def test_without_pairs_nothing_is_defined() -> None:
    found = paired_test([math.nan], [0.5])
    assert (found.pairs, found.left_out) == (0, 1)
    assert math.isnan(found.difference)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        paired_test([0.1], [0.1, 0.2])


def test_the_interval_of_a_case_alone_is_not_shown() -> None:
    assert [shown_interval(mean_interval(values)) for values in ([0.5], [0.5, 0.5])] == ["-", "0.5000 to 0.5000"]
