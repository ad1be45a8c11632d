"""What a model's validated folds say of its doubt, by rank and by the worst fifth."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata, spearmanr

from fuse4seg.errors import UnreadableRecordError
from fuse4seg.inference.model_calibration import (
    calibration,
    calibration_line,
    model_calibration,
    rank_correlation,
    read_doubts,
    worst_found,
    write_doubts,
)

SHARES = st.floats(0, 1).map(lambda value: round(value, 2))


def write_fold(model: Path, name: str, cases: list[dict[str, float]]) -> Path:
    fold = model / f"fold_{name}"
    (fold / "validation").mkdir(parents=True)
    write_doubts(cases, fold)
    return fold / "validation" / "doubt.json"


def random_cases(count: int, seed: int = 0) -> list[dict[str, float]]:
    draw = np.random.default_rng(seed)
    return [{"dice": dice, "doubt": min(1, max(0, 1 - dice + noise)), "volume": volume}
            for dice, noise, volume in zip(draw.random(count), draw.normal(0, 0.2, count), draw.random(count), strict=True)]


class TestModelCalibration:
    def test_is_that_of_all_folds_cases_together(self, tmp_path: Path) -> None:
        cases = random_cases(20)
        write_fold(tmp_path, "0", cases[:8])
        write_fold(tmp_path, "1", cases[8:])
        write_fold(tmp_path, "all", [{"dice": 1.0, "doubt": 1.0, "volume": 1.0}] * 20)
        found = model_calibration(tmp_path)
        dice, doubt, volume = ([case[name] for case in cases] for name in ("dice", "doubt", "volume"))
        assert found["cases"] == 20
        assert found["rank_correlation"] == pytest.approx(spearmanr(doubt, dice).statistic)
        assert found["by_volume_alone"]["rank_correlation"] == pytest.approx(-spearmanr(volume, dice).statistic)
        worst, doubtful = set(np.argsort(dice)[:4]), set(np.argsort(doubt)[-4:])
        assert found["worst_fifth_found"] == len(worst & doubtful) / 4

    def test_is_none_of_few_cases(self, tmp_path: Path) -> None:
        assert model_calibration(tmp_path) is None
        write_fold(tmp_path, "0", random_cases(4))
        assert model_calibration(tmp_path) is None

    def test_leaves_out_cases_without_a_dice(self, tmp_path: Path) -> None:
        path = write_fold(tmp_path, "0", [*random_cases(5), {"dice": math.nan, "doubt": 0.1, "volume": 0.0}])
        assert len(read_doubts(path)) == model_calibration(tmp_path)["cases"] == 5

    def test_goes_without_a_damaged_fold_and_says_so(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_fold(tmp_path, "0", random_cases(5))
        damaged = write_fold(tmp_path, "1", random_cases(5))
        damaged.write_text("[")
        assert model_calibration(tmp_path)["cases"] == 5
        assert str(damaged) in caplog.text

    def test_line_says_so_where_there_is_no_correlation(self) -> None:
        found = {"cases": 5, "rank_correlation": -0.456, "worst_fifth_found": 1.0,
                 "by_volume_alone": {"rank_correlation": None, "worst_fifth_found": 0.0}}
        assert calibration_line(found) == ("doubt, over 5 validated cases: rank correlation with Dice -0.46 (volume alone: "
                                           "none), worst fifth found 100 % (0 %)")


class TestDoubts:
    @pytest.mark.parametrize("content", [{}, [1], [{"dice": 1}], [{"dice": 2, "doubt": 0, "volume": 0}],
                                         [{"dice": 1, "doubt": 0, "volume": math.inf}], [{"dice": "1", "doubt": 0, "volume": 0}],
                                         [{"dice": True, "doubt": 0, "volume": 0}],
                                         [{"dice": 1, "doubt": 0, "volume": 0, "case": "a"}]])
    def test_refuse_what_is_none(self, tmp_path: Path, content: object) -> None:
        (tmp_path / "doubt.json").write_text(json.dumps(content))
        with pytest.raises(UnreadableRecordError, match=r"doubt\.json is no record of a validation's doubts"):
            read_doubts(tmp_path / "doubt.json")


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
