"""Volumes of labels and regions, those of a training set, and how far one lies off others'."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fuse4seg.evaluation.volumes import read_training_volumes, robust_deviation, volumes_of

TRAINING = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]


class TestVolumesOf:
    def test_counts_voxels_of_labels_and_regions(self) -> None:
        labels = np.array([[[0, 1, 1], [2, 2, 2]]])
        found = volumes_of(labels, (2.0, 5.0, 10.0), {"core": 1, "oedema": 2, "whole": (1, 2), "none": 3})
        assert found == {"core": pytest.approx(0.2), "oedema": pytest.approx(0.3), "whole": pytest.approx(0.5), "none": 0.0}

    def test_is_that_of_a_ball(self) -> None:
        places = np.indices((41, 41, 41)) - 20
        ball = (np.square(places * 0.5).sum(axis=0) <= 8**2).astype(np.uint8)
        assert volumes_of(ball, (0.5, 0.5, 0.5), {"ball": 1})["ball"] == pytest.approx(4 / 3 * math.pi * 0.8**3, rel=0.01)


class TestRobustDeviation:
    def test_is_the_z_value_of_a_large_lognormal_sample(self) -> None:
        sample = np.exp(norm.ppf((np.arange(2000) + 0.5) / 2000, loc=2.0, scale=0.7)).tolist()
        assert robust_deviation(math.exp(2.0 + 3 * 0.7), sample, smallest=1e-3) == pytest.approx(3, abs=0.01)
        assert robust_deviation(math.exp(2.0 - 0.7), sample, smallest=1e-3) == pytest.approx(-1, abs=0.01)

    def test_by_hand(self) -> None:
        # Logarithms to the base 2 are 0 to 6: median 3, median distance from it 2.
        assert robust_deviation(64.0, TRAINING, smallest=1e-3) == pytest.approx(3 / (1.4826 * 2), rel=1e-4)

    def test_one_huge_case_hardly_matters(self) -> None:
        usual = robust_deviation(64.0, TRAINING, smallest=1e-3)
        assert robust_deviation(64.0, [*TRAINING[:-1], 1e9], smallest=1e-3) == pytest.approx(usual)

    def test_an_absent_label_counts_as_the_smallest_one_where_every_case_has_it(self) -> None:
        assert robust_deviation(0.0, TRAINING, smallest=0.125) == robust_deviation(0.125, TRAINING, smallest=1e-3)

    @pytest.mark.parametrize(("volume", "others"), [
        (0.0, [*TRAINING, 0.0]), (4.0, TRAINING[:4]), (4.0, [4.0] * 7), (4.0, []), (4.0, [*TRAINING[:4], 0.0, 0.0])])
    def test_is_none_where_nothing_can_be_told(self, volume: float, others: list[float]) -> None:
        assert robust_deviation(volume, others, smallest=1e-3) is None

    @given(st.lists(st.floats(0.01, 1000), min_size=5, max_size=20), st.floats(0.01, 1000), st.floats(0.1, 10))
    def test_does_not_depend_on_the_unit(self, others: list[float], volume: float, unit: float) -> None:
        found = robust_deviation(volume, others, smallest=1e-6)
        scaled = robust_deviation(volume * unit, [other * unit for other in others], smallest=1e-6)
        spread = np.median(np.abs(np.log(others) - np.median(np.log(others))))
        if spread > 1e-6:  # else it is rounding that spreads
            assert scaled == pytest.approx(found, rel=1e-4, abs=1e-4)


class TestReadTrainingVolumes:
    def test_are_those_of_the_fingerprint(self, tmp_path: Path) -> None:
        (tmp_path / "dataset_fingerprint.json").write_text(json.dumps({"spacings": [], "label_volumes": {"tumour": [0, 2.5]}}))
        assert read_training_volumes(tmp_path) == {"tumour": [0, 2.5]}

    @pytest.mark.parametrize("content", ['{"label_volumes": {"tumour": [-1]}}', '{"label_volumes": {"tumour": [NaN]}}',
                                         '{"label_volumes": {"tumour": [Infinity]}}', '{"label_volumes": [1]}', "{}", "[]",
                                         '{"label_volumes": {"tumour": ["1"]}}'])
    def test_are_none_where_it_tells_nothing_usable(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "dataset_fingerprint.json").write_text(content)
        assert read_training_volumes(tmp_path) == {}

    def test_are_none_without_one_and_a_damaged_one_is_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert read_training_volumes(tmp_path) == {}
        assert not caplog.text
        (tmp_path / "dataset_fingerprint.json").write_text("{")
        assert read_training_volumes(tmp_path) == {}
        assert f"{tmp_path / 'dataset_fingerprint.json'} cannot be read" in caplog.text
