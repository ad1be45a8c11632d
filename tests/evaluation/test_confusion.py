"""Counts of voxels: scikit-learn's, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix

from fuse4seg.evaluation.confusion import confusion

labels = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))


@settings(deadline=None)
@given(labels, labels)
def test_is_scikit_learns_confusion_matrix(prediction: np.ndarray, reference: np.ndarray) -> None:
    counts = confusion(prediction, reference, (1, 3))
    expected = confusion_matrix(np.isin(reference, (1, 3)).ravel(), np.isin(prediction, (1, 3)).ravel(), labels=[False, True])
    assert [[counts.tn, counts.fp], [counts.fn, counts.tp]] == expected.tolist()


def test_leaves_out_voxels_that_the_reference_ignores() -> None:
    prediction, reference = np.array([1, 1, 0, 1, 0]), np.array([1, 9, 9, 0, 0])
    counts = confusion(prediction, reference, 1, ignore_label=9)
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (1, 1, 0, 1)


def test_refuses_different_shapes() -> None:
    with pytest.raises(ValueError, match="shape"):
        confusion(np.zeros(3), np.zeros(4), 1)


def test_counts_nothing_as_not_there() -> None:
    counts = confusion(np.zeros(4), np.zeros(4), 1)
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (0, 0, 0, 4)
