"""Numbers of a report against counts, SciPy and the whole image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from fuse4seg.evaluation.visibility import visibility
from fuse4seg.report.case_images import CaseImages, read_case
from fuse4seg.report.measures import scores, visible_boundaries, volumes_ml
from fuse4seg.report.prediction import read_prediction

CLASSES = {"oedema": 1, "core": 2, "whole": (1, 2)}


@pytest.fixture
def images(make_prediction: Callable[..., Any]) -> CaseImages:
    made = make_prediction("a")
    prediction = read_prediction(made.folder)
    return read_case(prediction.cases[0], prediction, reference=made.labels / "a.nii.gz")


class TestVolumes:
    def test_are_voxels_times_millilitres_of_one(self, images: CaseImages) -> None:
        counted = {name: np.isin(images.labels, entry).sum() * (1.0 * 2.0 * 3.0) / 1000 for name, entry in CLASSES.items()}
        assert volumes_ml(images, CLASSES) == pytest.approx(counted)
        assert min(counted.values()) > 0

    def test_are_not_there_without_a_segmentation(self, images: CaseImages) -> None:
        assert volumes_ml(replace(images, labels=None), CLASSES) == {}


class TestScores:
    def test_dice_counts_and_hd95_measures_between_surfaces(self, images: CaseImages) -> None:
        found = scores(images, CLASSES)
        for name, entry in CLASSES.items():
            predicted, true = np.isin(images.labels, entry), np.isin(images.reference, entry)
            dice = 2 * (predicted & true).sum() / (predicted.sum() + true.sum())
            assert found[name].values["Dice"] == pytest.approx(dice)
        # A shift by one voxel of 1 mm.
        surface = [np.argwhere(mask) * (3, 2, 1) for mask in (images.labels > 0, images.reference > 0)]
        assert found["whole"].values["HD95"] <= cdist(*surface).min(axis=1).max() == 1.0

    def test_are_not_there_without_true_labels(self, images: CaseImages) -> None:
        assert scores(replace(images, reference=None), CLASSES) == {}


class TestVisibility:
    def test_of_the_box_around_the_labels_is_that_of_the_whole_image(self) -> None:
        random = np.random.default_rng(0)
        labels = np.zeros((30, 60, 60), np.uint8)
        labels[10:18, 20:32, 22:34], labels[12:16, 22:30, 24:32] = 1, 2
        fused = random.integers(1, 200, (3, *labels.shape), dtype=np.uint8)
        fused[0][labels == 2] += 40
        case = CaseImages(fused, np.eye(4), (1, 1, 1), labels=labels)
        whole = visibility(fused, labels, (fused > 0).any(axis=0), classes={"oedema": 1, "core": 2})
        assert len(whole) > 1
        assert visible_boundaries(case, {1: "oedema", 2: "core"}) == pytest.approx(whole)

    def test_is_of_the_true_labels_where_there_are_some(self, images: CaseImages) -> None:
        empty = replace(images, reference=np.zeros_like(images.labels))
        assert visible_boundaries(empty, {1: "oedema", 2: "core"}) == {}
