"""Fused images as files: formats, geometry, colour, and the grey copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image as Picture

from fuse4seg.datasets.grey_images import read_grey_image
from fuse4seg.inference.write_fused import blended_chroma, write_fused

LEVELS = np.linspace(0, 255, 24).reshape(4, 6)


def test_pictures_without_colour_are_8_bit_grey(tmp_path: Path) -> None:
    Picture.fromarray(LEVELS.astype(np.uint8)).save(tmp_path / "source.bmp")
    path = write_fused(LEVELS, [read_grey_image(tmp_path / "source.bmp")] * 2, tmp_path, "a")
    assert path == tmp_path / "a.png"
    with Picture.open(path) as written:
        assert written.mode == "L"
        np.testing.assert_array_equal(np.asarray(written), np.rint(LEVELS))
    assert not (tmp_path / "grey").exists()


def test_colour_is_given_back_and_a_grey_copy_kept(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(60, 200, (4, 6, 3), dtype=np.uint8)
    Picture.fromarray(colours).save(tmp_path / "pet.png")
    source = read_grey_image(tmp_path / "pet.png")
    write_fused(source.levels.astype(float), [source, source], tmp_path, "a")
    with Picture.open(tmp_path / "a.png") as written:
        # Its own luma and chroma give the image back, but for rounding.
        np.testing.assert_allclose(np.asarray(written).astype(int), colours, atol=4)
    np.testing.assert_array_equal(np.asarray(Picture.open(tmp_path / "grey" / "a.png")), source.levels)


def test_volumes_are_written_in_the_unit_range_and_in_place(tmp_path: Path) -> None:
    source = sitk.GetImageFromArray(np.zeros((2, 4, 6), np.uint8))
    source.SetSpacing((0.5, 1, 3))
    source.SetOrigin((-7, 2, 9))
    source.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(source, str(tmp_path / "source.nii"))
    path = write_fused(np.stack([LEVELS, LEVELS / 2]), [read_grey_image(tmp_path / "source.nii")] * 2, tmp_path, "a")
    written = sitk.ReadImage(str(path))
    np.testing.assert_allclose(sitk.GetArrayFromImage(written), np.stack([LEVELS, LEVELS / 2]) / 255, atol=1e-6)
    assert written.GetSpacing() == (0.5, 1, 3)
    np.testing.assert_allclose(written.GetOrigin(), source.GetOrigin())
    np.testing.assert_allclose(written.GetDirection(), source.GetDirection())


def test_chroma_is_blended_by_distance_from_grey() -> None:
    grey, blue, red = (np.full((2, 2, 2), value, np.uint8) for value in ((128, 128), (228, 108), (118, 188)))
    np.testing.assert_array_equal(blended_chroma([blue]), blue)
    np.testing.assert_array_equal(blended_chroma([grey, red]), red)
    # Cb: (100 * 100 - 10 * 10) / 110, Cr: (60 * 60 - 20 * 20) / 80.
    np.testing.assert_array_equal(blended_chroma([blue, red])[0, 0], [128 + 90, 128 + 40])
