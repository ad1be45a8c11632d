"""Volumes as 8-bit slices: the intensity rule and which slices count."""

from __future__ import annotations

import numpy as np

from fuse4seg.datasets.slices import telling_slices, to_8_bit


def test_the_brain_is_stretched_between_its_percentiles_and_the_rest_is_black() -> None:
    voxels = np.linspace(-500, 4000, 20_000).reshape(20, 25, 40)
    brain = np.zeros(voxels.shape, bool)
    brain[4:] = True
    levels = to_8_bit(voxels, brain)
    low, high = np.quantile(voxels[brain], [0.0005, 0.9995])
    expected = 1 + 254 * np.clip((voxels[brain] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(levels[brain], expected, atol=0.51)
    assert (levels[brain].min(), levels[brain].max()) == (1, 255)
    assert not levels[~brain].any()


def test_a_brain_of_one_intensity_is_not_black() -> None:
    brain = np.zeros((2, 2, 2), bool)
    assert not to_8_bit(np.ones(brain.shape), brain).any()
    brain[0] = True
    np.testing.assert_array_equal(to_8_bit(np.ones(brain.shape), brain), brain)


def test_slices_with_brain_are_told_along_every_axis() -> None:
    brain = np.zeros((5, 6, 7), bool)
    brain[1:3, 4, 2:6] = True
    assert [telling_slices(brain, axis) for axis in range(3)] == [[1, 2], [4], [2, 3, 4, 5]]
