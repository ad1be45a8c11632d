"""How well doubt predicts Dice, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata

from fuse4seg.evaluation.calibration import calibration, rank_correlation, worst_found

SHARES = st.floats(0, 1).map(lambda value: round(value, 2))


class TestRankCorrelation:
    def test_is_the_correlation_of_ranks(self) -> None:
        random = np.random.default_rng(0)
        doubt, dice = random.random(30).round(1), random.random(30).round(1)  # with ties
        of_ranks = pearsonr(rankdata(doubt), rankdata(dice)).statistic
        assert rank_correlation(doubt.tolist(), dice.tolist()) == pytest.approx(of_ranks)

    def test_sees_order_alone(self) -> None:
        dice = [0.1, 0.5, 0.7, 0.9]
        assert rank_correlation([9.0, 0.3, 0.2, 0.1], dice) == -1
        assert rank_correlation([0.1, 0.2, 0.3, 9.0], dice) == 1

    def test_is_none_where_all_are_alike(self) -> None:
        assert rank_correlation([0.5] * 5, [0.1, 0.2, 0.3, 0.4, 0.5]) is None
        assert rank_correlation([0.1, 0.2, 0.3, 0.4, 0.5], [0.5] * 5) is None


class TestWorstFound:
    def test_by_hand(self) -> None:
        dice = [0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 0.91, 0.92, 0.93]
        doubt = [0.9, 0.1, 0.8, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]
        assert worst_found(doubt, dice) == 0.5

    def test_a_fifth_is_rounded_up(self) -> None:
        # Two of six: the first is found, the second not.
        assert worst_found([0.9, 0.0, 0.8, 0.1, 0.1, 0.1], [0.0, 0.1, 0.9, 0.9, 0.9, 0.9]) == 0.5

    @given(st.lists(SHARES, min_size=1, max_size=40, unique=True))
    def test_all_are_found_by_a_doubt_that_is_the_error(self, dice: list[float]) -> None:
        assert worst_found([1 - value for value in dice], dice) == 1

    def test_is_a_fifth_by_chance(self) -> None:
        random = np.random.default_rng(0)
        shares = [worst_found(random.random(50).tolist(), random.random(50).tolist()) for _ in range(500)]
        assert np.mean(shares) == pytest.approx(0.2, abs=0.02)


class TestCalibration:
    @given(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=20, unique_by=(lambda pair: pair[0], lambda pair: pair[1])))
    def test_does_not_depend_on_the_order_of_cases_nor_on_the_scale_of_doubt(self, cases: list[tuple[float, float]]) -> None:
        doubt, dice = map(list, zip(*cases, strict=True))
        found = calibration(doubt, dice)
        assert calibration(doubt[::-1], dice[::-1]) == found
        assert calibration([value**3 for value in doubt], dice) == found

    def test_needs_a_doubt_of_every_case(self) -> None:
        with pytest.raises(ValueError, match="2 doubts of 1 cases"):
            calibration([0.1, 0.2], [0.3])
