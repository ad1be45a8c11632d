"""The largest component: SciPy's, of all foreground labels together."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from fuse4seg.evaluation.largest_component import keep_largest_component


@settings(deadline=None)
@given(arrays(np.float32, (1, 4, 5, 6), elements=st.sampled_from([0, 0, 0, 0, 1, 2])))
def test_is_that_of_scipy(labels: np.ndarray) -> None:
    found, components = ndimage.label(labels[0] > 0, np.ones((3, 3, 3)))
    sizes = np.bincount(found.ravel(), minlength=components + 1)[1:]
    largest = 1 + np.flatnonzero(sizes == sizes.max(initial=0))
    assert np.array_equal(keep_largest_component(labels, (1, 2))[0], np.where(np.isin(found, largest), labels[0], 0))


def test_takes_all_classes_as_one_region_and_leaves_other_labels() -> None:
    labels = np.array([[[[1, 2, 2, 0, 1, 1, 0, 3]]]], np.float32)
    assert keep_largest_component(labels, (1, 2)).tolist() == [[[[1, 2, 2, 0, 0, 0, 0, 3]]]]
