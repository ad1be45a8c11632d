"""Overlap metrics: scikit-learn's values, nnU-Net's rules for what is empty, and their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from fuse4seg.evaluation.overlap import Confusion, confusion, dice, iou, precision, sensitivity

labels = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))


class TestConfusion:
    @settings(deadline=None)
    @given(labels, labels)
    def test_is_scikit_learns_confusion_matrix(self, prediction: np.ndarray, reference: np.ndarray) -> None:
        counts = confusion(prediction, reference, (1, 3))
        expected = confusion_matrix(np.isin(reference, (1, 3)).ravel(), np.isin(prediction, (1, 3)).ravel(), labels=[False, True])
        assert [[counts.tn, counts.fp], [counts.fn, counts.tp]] == expected.tolist()

    def test_leaves_out_voxels_that_the_reference_ignores(self) -> None:
        prediction, reference = np.array([1, 1, 0, 1, 0]), np.array([1, 9, 9, 0, 0])
        counts = confusion(prediction, reference, 1, ignore_label=9)
        assert (counts.tp, counts.fp, counts.fn, counts.tn) == (1, 1, 0, 1)

    def test_refuses_different_shapes(self) -> None:
        with pytest.raises(ValueError, match="shape"):
            confusion(np.zeros(3), np.zeros(4), 1)

    def test_counts_nothing_as_not_there(self) -> None:
        counts = confusion(np.zeros(4), np.zeros(4), 1)
        assert (counts.tp, counts.fp, counts.fn, counts.tn) == (0, 0, 0, 4)


class TestDice:
    def test_matches_a_value_by_hand(self) -> None:
        prediction, reference = np.array([1, 1, 1, 0, 2]), np.array([0, 1, 1, 1, 2])
        assert dice(confusion(prediction, reference, 1)) == pytest.approx(4 / 6)

    def test_joins_the_labels_of_a_region(self) -> None:
        prediction, reference = np.array([1, 2, 3, 0]), np.array([2, 0, 3, 1])
        assert dice(confusion(prediction, reference, (1, 2))) == pytest.approx(2 / 4)

    def test_leaves_out_voxels_that_the_reference_ignores(self) -> None:
        prediction, reference = np.array([1, 1, 0, 1]), np.array([1, 9, 9, 0])
        assert dice(confusion(prediction, reference, 1, ignore_label=9)) == pytest.approx(2 / 3)

    def test_is_nan_where_the_class_is_in_neither(self) -> None:
        assert math.isnan(dice(confusion(np.zeros(4), np.zeros(4), 1)))

    @pytest.mark.parametrize(("predicted", "wanted"), [(0, 1), (1, 0)])
    def test_is_zero_where_the_class_is_in_only_one(self, predicted: int, wanted: int) -> None:
        assert dice(confusion(np.full(4, predicted), np.full(4, wanted), 1)) == 0

    def test_refuses_different_shapes(self) -> None:
        with pytest.raises(ValueError, match="shape"):
            dice(confusion(np.zeros((2, 2)), np.zeros(4), 1))

    @settings(deadline=None, max_examples=40)
    @given(prediction=labels, reference=labels)
    def test_is_the_f1_score_and_is_symmetric_and_bounded(self, prediction: np.ndarray, reference: np.ndarray) -> None:
        value = dice(confusion(prediction, reference, 1))
        if math.isnan(value):
            assert not (prediction == 1).any()
            assert not (reference == 1).any()
            return
        assert value == pytest.approx(f1_score(reference.ravel() == 1, prediction.ravel() == 1))
        assert value == dice(confusion(reference, prediction, 1))
        assert 0 <= value <= 1

    @settings(deadline=None, max_examples=20)
    @given(segmentation=labels)
    def test_is_one_for_equal_segmentations(self, segmentation: np.ndarray) -> None:
        for label in np.unique(segmentation):
            assert dice(confusion(segmentation, segmentation, int(label))) == 1


masks = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 1))


class TestIou:
    @settings(deadline=None)
    @given(masks, masks)
    def test_is_that_of_scikit_learn(self, prediction: np.ndarray, reference: np.ndarray) -> None:
        value = iou(confusion(prediction, reference, 1))
        there = prediction.any() or reference.any()
        expected = jaccard_score(reference.ravel(), prediction.ravel()) if there else math.nan
        assert value == pytest.approx(expected, nan_ok=True)

    def test_is_not_defined_where_there_is_nothing(self) -> None:
        assert math.isnan(iou(Confusion(0, 0, 0, 9)))


class TestSensitivity:
    @settings(deadline=None)
    @given(masks, masks)
    def test_is_that_of_scikit_learn(self, prediction: np.ndarray, reference: np.ndarray) -> None:
        value = sensitivity(confusion(prediction, reference, 1))
        expected = recall_score(reference.ravel(), prediction.ravel(), zero_division=math.nan)
        assert value == pytest.approx(expected, nan_ok=True)

    def test_is_not_defined_where_there_is_nothing(self) -> None:
        assert math.isnan(sensitivity(Confusion(0, 0, 0, 9)))


class TestPrecision:
    @settings(deadline=None)
    @given(masks, masks)
    def test_is_that_of_scikit_learn(self, prediction: np.ndarray, reference: np.ndarray) -> None:
        value = precision(confusion(prediction, reference, 1))
        expected = precision_score(reference.ravel(), prediction.ravel(), zero_division=math.nan)
        assert value == pytest.approx(expected, nan_ok=True)

    def test_is_not_defined_where_there_is_nothing(self) -> None:
        assert math.isnan(precision(Confusion(0, 0, 0, 9)))
