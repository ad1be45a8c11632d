"""IoU: scikit-learn's values, and the rule for empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import jaccard_score

from fuse4seg.evaluation.confusion import Confusion, confusion
from fuse4seg.evaluation.iou import iou

masks = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 1))


@settings(deadline=None)
@given(masks, masks)
def test_is_that_of_scikit_learn(prediction: np.ndarray, reference: np.ndarray) -> None:
    value = iou(confusion(prediction, reference, 1))
    there = prediction.any() or reference.any()
    expected = jaccard_score(reference.ravel(), prediction.ravel()) if there else math.nan
    assert value == pytest.approx(expected, nan_ok=True)


def test_is_not_defined_where_there_is_nothing() -> None:
    assert math.isnan(iou(Confusion(0, 0, 0, 9)))
