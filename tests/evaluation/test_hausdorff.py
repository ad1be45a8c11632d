"""HD95 against distances between all pairs of surface voxels, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial import cKDTree

from fuse4seg.evaluation.hausdorff import hausdorff_95


def blob(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    smooth = gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    return smooth > np.quantile(smooth, 0.8)


def by_all_pairs(first: np.ndarray, second: np.ndarray, spacing: tuple[float, ...]) -> float:
    surfaces = [np.argwhere(mask & ~binary_erosion(mask)) * np.array(spacing) for mask in (first, second)]
    one, other = (cKDTree(surfaces[1 - side]).query(surfaces[side])[0] for side in (0, 1))
    return max(np.percentile(one, 95), np.percentile(other, 95))


@pytest.mark.parametrize(("shape", "spacing"), [((24, 30), (1.0, 1.0)), ((24, 30), (0.5, 2.0)), ((10, 16, 18), (3.0, 1.0, 0.7))])
def test_is_that_of_all_pairs_of_surface_voxels(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    for seed in range(3):
        first, second = blob(seed, shape), blob(seed + 10, shape)
        assert hausdorff_95(first, second, spacing=spacing) == pytest.approx(by_all_pairs(first, second, spacing), rel=1e-5)


def test_of_a_shifted_box_is_the_shift_in_millimetres() -> None:
    first, second = np.zeros((2, 20, 20), bool)
    first[5:9, 5:9] = second[5:9, 8:12] = True
    assert hausdorff_95(first, second, spacing=(1, 2)) == pytest.approx(6)


def test_is_symmetric_and_nothing_for_equal_masks() -> None:
    first, second = blob(0, (9, 12, 14)), blob(1, (9, 12, 14))
    assert hausdorff_95(first, second, spacing=(1, 1, 1)) == hausdorff_95(second, first, spacing=(1, 1, 1))
    assert hausdorff_95(first, first, spacing=(1, 1, 1)) == 0


def test_grows_with_the_spacing() -> None:
    first, second = blob(0, (20, 24)), blob(1, (20, 24))
    once, thrice = (hausdorff_95(first, second, spacing=(factor, factor)) for factor in (1, 3))
    assert thrice == pytest.approx(3 * once)


def test_of_a_single_slice_is_that_of_the_slice() -> None:
    first, second = blob(0, (20, 24)), blob(1, (20, 24))
    assert hausdorff_95(first[None], second[None], spacing=(5, 1, 2)) == hausdorff_95(first, second, spacing=(1, 2))


@pytest.mark.parametrize("empty", [(True, False), (False, True), (True, True)])
def test_is_not_defined_where_one_is_empty(empty: tuple[bool, bool]) -> None:
    masks = [blob(0, (20, 24)) & (not nothing) for nothing in empty]
    assert math.isnan(hausdorff_95(*masks, spacing=(1, 1)))
