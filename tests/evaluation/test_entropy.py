"""EN against scikit-image and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import shannon_entropy

from fuse4seg.evaluation.entropy import entropy


def test_is_that_of_scikit_image(fused: np.ndarray) -> None:
    assert entropy(fused) == pytest.approx(shannon_entropy(np.rint(fused)), abs=1e-12)


@pytest.mark.parametrize(("levels", "bits"), [(1, 0.0), (2, 1.0), (256, 8.0)])
def test_of_equally_frequent_levels_is_their_logarithm(levels: int, bits: float) -> None:
    assert entropy(np.resize(np.arange(levels, dtype=np.uint8), (32, 256))) == bits
