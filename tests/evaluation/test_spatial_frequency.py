"""SF against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from fuse4seg.evaluation.spatial_frequency import spatial_frequency


def test_of_a_ramp_is_the_length_of_its_gradient() -> None:
    rows, columns = np.mgrid[:10, :12]
    assert spatial_frequency(3.0 * rows + 4.0 * columns) == pytest.approx(5.0)


def test_of_stripes_is_their_contrast() -> None:
    assert spatial_frequency(np.resize(np.array([0, 200], np.uint8), (6, 8))) == 200.0


def test_needs_two_voxels_along_each_axis() -> None:
    with pytest.raises(ValueError, match=r"two voxels.*\(1, 5\)"):
        spatial_frequency(np.zeros((1, 5)))
