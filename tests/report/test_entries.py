"""What the pages say of a case: faults before trust, numbers against counts and SciPy, and the record as it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from fuse4seg.evaluation.visibility import visibility
from fuse4seg.report.case_images import CaseImages, read_case
from fuse4seg.report.entries import (
    calibration_of,
    case_entry,
    label_colours,
    label_names,
    record_of,
    scores,
    suspects_of,
    visible_boundaries,
    volumes_ml,
)
from fuse4seg.report.prediction import Prediction, read_prediction

ALIGNMENT = {"T1": {"shift": [3.0, 0.0, -1.25], "turn": 2.0, "information": [0.4, 0.6], "suspect": True}}
CLASSES = {"oedema": 1, "core": 2, "whole": (1, 2)}


def entry_of(folder: Any, **arguments: Any) -> dict[str, Any]:
    prediction = read_prediction(folder)
    case = prediction.cases[0]
    return case_entry(case, read_case(case, prediction, **arguments), prediction)


class TestCaseEntry:
    def test_has_volumes_doubt_sizes_and_what_is_segmented(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        made.told("a", doubt={"entropy": 0.25, "disagreement": None, "components": {"core": 2}, "score": 0.75,
                              "size": {"oedema": 2.5, "core": None}})
        entry = entry_of(made.folder)
        expected = {name: (made.segmented["a"] == value).sum() * 6 / 1000 for name, value in (("oedema", 1), ("core", 2))}
        assert {row["name"]: row["ml"] for row in entry["classes"]} == pytest.approx(expected)
        assert [row["size"] for row in entry["classes"]] == [2.5, None]
        assert (entry["score"], entry["present"], entry["faults"], entry["dice"]) == (0.75, ["oedema", "core"], [], None)
        facts = dict(entry["facts"])
        assert (facts["entropy"], facts["components"], facts["predicted in"]) == ("0.250 nats at the boundary", "core 2", "1.5 s")
        assert "disagreement" not in facts

    def test_has_dice_and_hd95_with_true_labels(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        entry = entry_of(made.folder, reference=made.labels / "a.nii.gz")
        dice = []
        for value in (1, 2):
            predicted, true = made.segmented["a"] == value, made.true["a"] == value
            dice.append(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))
        assert [row["dice"] for row in entry["classes"]] == pytest.approx(dice)
        assert entry["dice"] == pytest.approx(sum(dice) / 2)

    def test_names_every_fault(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        (made.images / "a_0001.nii.gz").unlink()
        made.told("a", absent=["T1"], alignment=ALIGNMENT)
        entry = entry_of(made.folder)
        assert entry["kinds"] == ["alignment", "missing", "unread"]
        assert entry["faults"][0] == "predicted without T1"
        assert "T1 may not be aligned" in entry["faults"][1]
        assert ("best after a shift of (-3.0, 0.0, 1.2) mm, a turn of 2.0 degrees, mutual information 0.40 nats as it is, "
                "0.60 there") in entry["faults"][1]
        assert suspects_of(read_prediction(made.folder).cases[0]) == [("T1", "FLAIR")]

    def test_a_record_of_another_form_does_no_harm(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        made.told("a", doubt="much", alignment=[1], seconds=None)
        assert entry_of(made.folder)["score"] is None


class TestLabels:
    def test_regions_are_named_by_the_value_that_is_written(self) -> None:
        regions = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]}
        assert label_names(regions) == {1: "whole", 2: "core"}
        assert label_colours(regions) == {1: "#D55E00", 2: "#56B4E9"}


class TestRecord:
    def test_tells_model_folds_weights_options_and_versions(self, make_prediction: Callable[..., Any]) -> None:
        record = dict(record_of(read_prediction(make_prediction("a").folder)))
        assert record["model"] == "Fuse4SegTrainer__Fuse4SegPlans__2d"
        assert record["weights, SHA-256"] == "ab" * 32
        assert record["versions"] == "fuse4seg 0.1.0, torch 2.13.0"

    def test_says_how_far_doubt_can_be_trusted_where_that_is_known(self, make_prediction: Callable[..., Any]) -> None:
        prediction = read_prediction(make_prediction("a").folder)
        assert calibration_of(prediction) is None
        known = {"cases": 67, "rank_correlation": -0.62, "worst_fifth_found": 0.71,
                 "by_volume_alone": {"rank_correlation": -0.3, "worst_fifth_found": 0.4}}
        told = Prediction(prediction.folder, prediction.dataset_json, prediction.reader, {"calibration": known}, ())
        assert calibration_of(told) == (
            "How far to trust doubt: on the 67 cases of the model's validation its rank correlation with Dice, and the share of "
            "the worst fifth that was in the most doubtful fifth, were -0.62 and 71%, by volume alone -0.30 and 40%.")
        known["by_volume_alone"]["rank_correlation"] = None
        assert calibration_of(told).endswith("by volume alone none and 40%.")


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
