"""Volumes of training labels from the fingerprint beside a model; without a usable one there are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuse4seg.inference.training_volumes import read_training_volumes


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
