"""Scores of a finished training: where they are read, what they count, and when they are kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from fuse4seg.comparison import scores as module
from fuse4seg.comparison.prepared_data import as_grey, windows_of
from fuse4seg.comparison.rows import Row
from fuse4seg.comparison.scores import (
    references_of,
    score_fusion,
    score_trial,
    score_trivial,
    seconds_per_iteration,
    with_margin,
)
from fuse4seg.comparison.stock_nnunet import TRAINING_LOG
from fuse4seg.comparison.trainings import Budget, Trial
from fuse4seg.evaluation.fusion_metrics import METRICS, fusion_metrics
from fuse4seg.evaluation.vif import SMALLEST
from fuse4seg.evaluation.visibility import visibility
from fuse4seg.inference.fusion_rules import fuse_by_rule
from fuse4seg.inference.image_files import write_fused


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
        assert score_trial(trial, plans={}, source=source) == self.WHOLE

    def test_are_not_read_where_the_validation_ran_again(self, trial: Trial, kept: Path, source: Path) -> None:
        os.utime(kept, (0, 0))
        with pytest.raises(ScoredAgainError):
            score_trial(trial, plans={}, source=source)

    @pytest.mark.parametrize("lacking", ["segmentation", "largest_component"])
    def test_are_not_read_where_an_earlier_version_scored(self, trial: Trial, kept: Path, source: Path, lacking: str) -> None:
        kept.write_text(json.dumps({name: value for name, value in self.WHOLE.items() if name != lacking}))
        with pytest.raises(ScoredAgainError):
            score_trial(trial, plans={}, source=source)


DATASET = "Dataset990_Phantom"
NAMES = ("T1", "T1ce", "T2", "FLAIR")


@pytest.fixture
def preprocessed(planned_phantom: Path) -> Path:
    return planned_phantom / "nnUNet_preprocessed" / DATASET


@pytest.fixture
def plans(preprocessed: Path) -> dict[str, Any]:
    return json.loads((preprocessed / "Fuse4SegPlans.json").read_text())


def load(preprocessed: Path, plans: dict[str, Any], case: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Sources in 0..255, labels, and nnU-Net's properties of a case."""
    data, labels, _, properties = nnUNetDatasetBlosc2(str(preprocessed / "nnUNetPlans_2d")).load_case(case)
    return as_grey(data[:], windows_of(plans, "2d")), np.asarray(labels[0]), properties


def expected_scores(fused: np.ndarray, sources: np.ndarray, labels: np.ndarray, classes: dict[str, int]) -> dict[str, float]:
    """Of an image (C, Z, Y, X): the metrics of its luma in slices with foreground, and visibility of it whole."""
    held = (labels > 0).any(axis=(1, 2))
    grey = fused[0] if len(fused) == 1 else np.tensordot([0.299, 0.587, 0.114], fused, axes=1)
    shown, parts = with_margin(grey[held].astype(np.float64)), with_margin(sources[:, held])
    inside = (labels >= 0) & sources.any(axis=0)
    return {**fusion_metrics(shown, list(parts)),
            **{f"visibility {name}": value for name, value in visibility(fused, labels, inside, classes=classes).items()}}


class TestFusionOfATraining:
    @pytest.fixture
    def classes(self, preprocessed: Path) -> dict[str, int]:
        labels = json.loads((preprocessed / "dataset.json").read_text())["labels"]
        return {name: value for name, value in labels.items() if value}

    @pytest.fixture
    def finished(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Row], Trial]:
        """A training of a row that has validated phantom_001; what segmentation is worth, and costs, are left out."""
        def make(row: Row) -> Trial:
            trial = Trial(row, 0, 0, DATASET, "2d", "Fuse4SegPlans", tmp_path, Budget(3, 5, 0))
            (trial.fold_folder / "validation" / "fused").mkdir(parents=True)
            (trial.fold_folder / "validation" / "summary.json").write_text("{}")
            return trial

        evaluated = SimpleNamespace(cases={"phantom_001": {}}, to_plain=lambda: {})
        monkeypatch.setattr(module, "evaluate_folders", lambda *_, **__: evaluated)
        monkeypatch.setattr(module, "costs", lambda *_: {})
        return make

    @pytest.mark.parametrize("colours", [1, 3])
    def test_is_that_of_the_image_that_validation_exported(self, finished: Callable[[Row], Trial], preprocessed: Path,
                                                           plans: dict[str, Any], classes: dict[str, int], colours: int) -> None:
        """Read from its file, whatever the leader would paint now; the phantom's spacing is the plans'."""
        trial, random = finished(Row("fuse4seg", ours=True)), np.random.default_rng(0)
        sources, labels, properties = load(preprocessed, plans, "phantom_001")
        box = tuple(slice(*ends) for ends in properties["bbox_used_for_cropping"])
        levels = np.zeros((colours, *properties["shape_before_cropping"]), np.uint8)
        levels[(slice(None), *box)] = np.clip(sources[:colours] + random.normal(0, 9, sources[:colours].shape), 1, 255)
        write_fused(levels, trial.fold_folder / "validation" / "fused", "phantom_001", ".nii.gz", properties)
        found = score_trial(trial, plans=plans, source=preprocessed)["fusion"]
        expected = expected_scores(levels[(slice(None), *box)], sources, labels, classes)
        assert {name: found["cases"]["phantom_001"][name] for name in expected} == pytest.approx(expected, rel=1e-3)
        boundaries = [value for name, value in expected.items() if "|" in name]
        assert len(boundaries) > 2
        assert found["mean"]["visibility"] == pytest.approx(np.mean(boundaries), rel=1e-3)

    def test_of_a_rule_is_that_of_its_image(self, finished: Callable[[Row], Trial], preprocessed: Path, plans: dict[str, Any],
                                            classes: dict[str, int]) -> None:
        found = score_trial(finished(Row("colour", source=("rule", "colour"))), plans=plans, source=preprocessed)["fusion"]
        sources, labels, _ = load(preprocessed, plans, "phantom_001")
        expected = expected_scores(fuse_by_rule(list(sources), "colour"), sources, labels, classes)
        assert {name: found["cases"]["phantom_001"][name] for name in expected} == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("row", [Row("stacked"), Row("T1", source=("modality", 0))])
    def test_is_none_where_nothing_was_fused_here(self, finished: Callable[[Row], Trial], row: Row, preprocessed: Path,
                                                  plans: dict[str, Any]) -> None:
        assert "fusion" not in score_trial(finished(row), plans=plans, source=preprocessed)

    def test_of_images_fused_elsewhere_is_that_of_their_file(self, finished: Callable[[Row], Trial], preprocessed: Path,
                                                             plans: dict[str, Any], trivial: dict[str, Any],
                                                             tmp_path: Path) -> None:
        """The mean of the sources, written as images in 0..1, is the trivial row of that name."""
        sources, _, properties = load(preprocessed, plans, "phantom_001")
        whole = np.zeros(properties["shape_before_cropping"], np.float32)
        whole[tuple(slice(*ends) for ends in properties["bbox_used_for_cropping"])] = sources.mean(axis=0) / 255
        sitk.WriteImage(sitk.GetImageFromArray(whole), str(tmp_path / "phantom_001.nii.gz"))
        row = Row("FILM", source=("folder", str(tmp_path)))
        found = score_trial(finished(row), plans=plans, source=preprocessed)["fusion"]["cases"]["phantom_001"]
        expected = trivial["average"]["cases"]["phantom_001"]
        assert found.keys() == expected.keys()
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)

    def test_tells_the_chroma_of_background_and_foreground(self, preprocessed: Path, plans: dict[str, Any]) -> None:
        """Of an image that is orange where something is labelled and grey elsewhere."""
        _, labels, _ = load(preprocessed, plans, "phantom_001")
        orange, grey = np.array([220.0, 120, 40]), np.full(3, 90.0)
        image = np.where(labels > 0, orange.reshape(3, 1, 1, 1), grey.reshape(3, 1, 1, 1))
        found = score_fusion(lambda *_: image, ["phantom_001"], preprocessed, plans=plans, configuration="2d", doing="")["mean"]
        luma = orange @ [0.299, 0.587, 0.114]
        differences = 0.5 * (orange[2] - luma) / (1 - 0.114), 0.5 * (orange[0] - luma) / (1 - 0.299)
        assert found["chroma of foreground"] == pytest.approx(np.hypot(*differences), rel=1e-5)
        assert found["chroma of background"] == pytest.approx(0, abs=1e-4)


@pytest.fixture(scope="module")
def trivial(planned_phantom: Path) -> dict[str, Any]:
    source = planned_phantom / "nnUNet_preprocessed" / DATASET
    plans = json.loads((source / "Fuse4SegPlans.json").read_text())
    return score_trivial(["phantom_000", "phantom_001"], source, plans=plans, configuration="2d")


class TestTrivial:
    def test_are_fixed_fusions_each_source_and_all_of_them(self, trivial: dict[str, Any]) -> None:
        assert list(trivial) == ["average", "maximum", *NAMES, "all_sources"]

    def test_have_metrics_and_visibility(self, trivial: dict[str, Any]) -> None:
        for name in ("average", "maximum", *NAMES):
            assert {*METRICS, "visibility", "SSIM to T1"} <= trivial[name]["mean"].keys()
            assert list(trivial[name]["cases"]) == ["phantom_000", "phantom_001"]
        assert trivial["T1"]["mean"]["SSIM to T1"] == pytest.approx(1)

    def test_of_all_sources_have_visibility_alone(self, trivial: dict[str, Any]) -> None:
        """Which is the bound: no other row sees the boundaries better, but by what a sample can make of it."""
        together = trivial["all_sources"]
        assert all(name.startswith("visibility") for values in (together["mean"], *together["cases"].values()) for name in values)
        for name in ("average", "maximum", *NAMES):
            assert trivial[name]["mean"]["visibility"] < together["mean"]["visibility"] + 0.01


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
