"""Images of a case on one grid: as they are where that is theirs, else by linear interpolation."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.interpolate import RegularGridInterpolator
from scipy.spatial.transform import Rotation

from fuse4seg.datasets.one_grid import brought_to_grid, is_on_grid, write_on_grid


def volume(shape: tuple[int, int, int] = (6, 7, 8), *, spacing: tuple[float, ...] = (1.0, 1.5, 2.0),
           origin: tuple[float, ...] = (3.0, -4.0, 5.0), turned: float = 0.0) -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(0).uniform(1, 9, shape).astype(np.float32))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(Rotation.from_euler("xyz", [turned, 2 * turned, -turned], degrees=True).as_matrix().ravel().tolist())
    return image


@pytest.mark.parametrize(("other", "same"), [
    (volume(), True), (volume(origin=(3.0005, -4.0, 5.0)), True), (volume(spacing=(1.00001, 1.5, 2.0)), True),
    (volume(origin=(3.1, -4.0, 5.0)), False), (volume(spacing=(1.01, 1.5, 2.0)), False), (volume(turned=0.2), False),
    (volume((6, 7, 9)), False)])
def test_grids_are_the_same_up_to_the_rounding_of_headers(other: sitk.Image, same: bool) -> None:
    assert is_on_grid(other, volume()) == same


def test_on_the_same_grid_voxels_stay_and_the_place_becomes_the_references() -> None:
    image, reference = volume(origin=(3.0005, -4.0, 5.0)), volume()
    found = brought_to_grid(image, reference)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(found), sitk.GetArrayViewFromImage(image))
    assert found.GetOrigin() == reference.GetOrigin()


def test_on_another_grid_it_is_scipys_linear_interpolation_with_0_outside() -> None:
    image, reference = volume(turned=4.0), volume((5, 6, 4), spacing=(1.3, 1.1, 1.9), origin=(4.0, -3.0, 5.5))
    found = sitk.GetArrayFromImage(brought_to_grid(image, reference))
    inside = RegularGridInterpolator([np.arange(size) for size in (6, 7, 8)], sitk.GetArrayFromImage(image), bounds_error=False,
                                     fill_value=0)
    places = [reference.TransformIndexToPhysicalPoint((int(x), int(y), int(z))) for z, y, x in np.ndindex(5, 6, 4)]
    expected = inside([image.TransformPhysicalPointToContinuousIndex(place)[::-1] for place in places])
    # ITK takes half a voxel around the outermost ones for inside.
    both = (expected > 0) & (found.ravel() > 0)
    assert both.sum() > 60
    np.testing.assert_allclose(found.ravel()[both], expected[both], rtol=1e-5)
    assert (found == 0).any()


def test_resampling_is_told_and_nothing_else_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_on_grid(volume(), volume(), tmp_path / "a.nii.gz", "c", "T2")
    assert caplog.messages == []
    write_on_grid(volume((6, 7, 9)), volume(), tmp_path / "b.nii.gz", "c", "T2")
    assert caplog.messages == ["c: T2 is resampled linearly, from 9 x 7 x 6 voxels of 1 x 1.5 x 2 mm to the reference's "
                               "8 x 7 x 6 voxels of 1 x 1.5 x 2 mm"]
    assert is_on_grid(sitk.ReadImage(str(tmp_path / "b.nii.gz")), volume())
