"""Two methods case by case: SciPy's test on the cases that both have, and a warning where there are too few."""

from __future__ import annotations

import math

import pytest
from scipy.stats import wilcoxon

from fuse4seg.evaluation.against import compare_evaluations, comparison_to_plain, format_comparison
from fuse4seg.evaluation.folders import METRICS, Evaluation, Scores
from fuse4seg.evaluation.overlap import Confusion


def evaluation(hits: list[int]) -> Evaluation:
    """One class; the n-th case has so many of ten voxels right."""
    cases = {str(number): {"core": Scores(Confusion(hit, 10 - hit, 10 - hit, 0), math.nan)} for number, hit in enumerate(hits)}
    return Evaluation({"core": 1}, cases, {})


FIRST, SECOND = [9, 8, 7, 9, 6, 8, 9], [5, 7, 8, 4, 5, 5, 7]


def test_is_scipys_test_of_the_dice_differences() -> None:
    found = compare_evaluations(evaluation(FIRST), evaluation(SECOND))["core"]
    assert found.pairs == 7
    assert found.difference == pytest.approx((sum(FIRST) - sum(SECOND)) / 70)
    assert found.p == pytest.approx(wilcoxon([a / 10 - b / 10 for a, b in zip(FIRST, SECOND, strict=True)]).pvalue)


def test_leaves_out_cases_that_only_one_has() -> None:
    assert compare_evaluations(evaluation(FIRST), evaluation(SECOND[:4]))["core"].pairs == 4


def test_says_when_there_are_too_few_cases_to_tell() -> None:
    few = compare_evaluations(evaluation(FIRST[:5]), evaluation(SECOND[:5]))
    assert format_comparison(few).endswith("fewer than 6 pairs cannot reach p < .05, whatever the difference")
    assert "fewer" not in format_comparison(compare_evaluations(evaluation(FIRST), evaluation(SECOND)))


def test_plain_data_hold_all_metrics_and_no_nan() -> None:
    plain = comparison_to_plain(evaluation(FIRST), evaluation(SECOND))
    assert tuple(plain) == METRICS
    assert plain["HD95"]["core"] == {"pairs": 0, "left_out": 7, "difference": None, "interval": [None, None], "p": None}
