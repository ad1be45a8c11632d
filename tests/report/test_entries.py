"""What the pages say of a case: faults before trust, numbers, and the record as it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fuse4seg.report.case_images import read_case
from fuse4seg.report.entries import calibration_of, case_entry, label_colours, label_names, record_of, suspects_of
from fuse4seg.report.prediction import Prediction, read_prediction

ALIGNMENT = {"T1": {"shift": [3.0, 0.0, -1.25], "turn": 2.0, "information": [0.4, 0.6], "suspect": True}}


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
