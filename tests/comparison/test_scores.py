"""Scores of a finished training: where they are read, what they count, and when they are kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fuse4seg.comparison.rows import Row
from fuse4seg.comparison.scores import references_of, score_trial, seconds_per_iteration, with_margin
from fuse4seg.comparison.stock_nnunet import TRAINING_LOG
from fuse4seg.comparison.trainings import Budget, Trial
from fuse4seg.evaluation.visual_information_fidelity import SMALLEST


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """A finished training of stock nnU-Net: five iterations in each of three epochs of 10, 5 and 30 seconds; one case."""
    finished = Trial(Row("stacked"), 0, 0, "Dataset990_Phantom", "2d", "Fuse4SegPlans", tmp_path, Budget(3, 5, 0))
    (finished.fold_folder / "validation").mkdir(parents=True)
    log = {"epoch_start_timestamps": [0.0, 10.0, 15.0], "epoch_end_timestamps": [10.0, 15.0, 45.0], "parameters": 1,
           "mean_fg_dice": [0.0, 0.0, 0.0]}
    (finished.fold_folder / TRAINING_LOG).write_text(json.dumps(log))
    for name in ("case_1.nii.gz", "summary.json"):
        (finished.fold_folder / "validation" / name).write_text("{}")
    return finished


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "gt_segmentations").mkdir(parents=True)
    for case in ("case_1", "case_2"):
        (folder / "gt_segmentations" / f"{case}.nii.gz").write_text(case)
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    return folder


def test_pace_is_the_median_over_the_epochs(trial: Trial) -> None:
    assert seconds_per_iteration(trial) == 10 / 5


def test_references_are_those_of_the_validation_cases_alone(trial: Trial, source: Path) -> None:
    for _ in range(2):
        folder = references_of(trial, source)
        assert [path.name for path in folder.iterdir()] == ["case_1.nii.gz"]
        assert (folder / "case_1.nii.gz").read_text() == "case_1"


class ScoredAgainError(Exception):
    """Raised in place of an evaluation."""


class TestKeptScores:
    WHOLE = {"name": "kept", "segmentation": {}, "largest_component": {}}

    @pytest.fixture(autouse=True)
    def evaluation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def evaluate(*arguments: object, **keywords: object) -> None:
            raise ScoredAgainError

        monkeypatch.setattr("fuse4seg.comparison.scores.evaluate_folders", evaluate)

    @pytest.fixture
    def kept(self, trial: Trial) -> Path:
        path = trial.place / "scores.json"
        path.write_text(json.dumps(self.WHOLE))
        return path

    def test_are_read_where_they_are_newer_than_the_validation(self, trial: Trial, kept: Path, source: Path) -> None:
        assert score_trial(trial, plans={}, source=source, device=torch.device("cpu")) == self.WHOLE

    def test_are_not_read_where_the_validation_ran_again(self, trial: Trial, kept: Path, source: Path) -> None:
        os.utime(kept, (0, 0))
        with pytest.raises(ScoredAgainError):
            score_trial(trial, plans={}, source=source, device=torch.device("cpu"))

    @pytest.mark.parametrize("lacking", ["segmentation", "largest_component"])
    def test_are_not_read_where_an_earlier_version_scored(self, trial: Trial, kept: Path, source: Path, lacking: str) -> None:
        kept.write_text(json.dumps({name: value for name, value in self.WHOLE.items() if name != lacking}))
        with pytest.raises(ScoredAgainError):
            score_trial(trial, plans={}, source=source, device=torch.device("cpu"))


class TestMargin:
    def test_is_black_around_what_is_too_small_for_vif(self) -> None:
        images = np.ones((2, 3, SMALLEST - 5, SMALLEST + 4))
        found = with_margin(images)
        assert found.shape == (2, 3, SMALLEST, SMALLEST + 4)
        assert found.sum() == images.sum()
        assert (found[:, :, 2:-3] == 1).all()

    def test_is_none_where_images_are_large_enough(self) -> None:
        images = np.random.default_rng(0).random((2, SMALLEST, SMALLEST + 1))
        np.testing.assert_array_equal(with_margin(images), images)
