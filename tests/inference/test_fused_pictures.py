"""Fused images beside their sources: formats, geometry, colour of the image's own or given back, and the grey copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image as Picture

from fuse4seg.datasets.grey_images import GreyImage, read_grey_image
from fuse4seg.inference.fused_pictures import blended_chroma, write_beside

LEVELS = np.linspace(0, 255, 24).reshape(1, 4, 6)
COLOURS = np.random.default_rng(0).integers(0, 256, (3, 4, 6), dtype=np.uint8)


def saved(picture: np.ndarray, path: Path) -> GreyImage:
    Picture.fromarray(picture).save(path)
    return read_grey_image(path)


def test_pictures_without_colour_are_8_bit_grey(tmp_path: Path) -> None:
    source = saved(LEVELS[0].astype(np.uint8), tmp_path / "source.bmp")
    assert write_beside(LEVELS, [source, source], tmp_path, "a") == [tmp_path / "a.png"]
    with Picture.open(tmp_path / "a.png") as written:
        assert written.mode == "L"
        np.testing.assert_array_equal(np.asarray(written), np.rint(LEVELS[0]))
    assert not (tmp_path / "grey").exists()


def test_colour_is_given_back_and_a_grey_copy_kept(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(60, 200, (4, 6, 3), dtype=np.uint8)
    source = saved(colours, tmp_path / "pet.png")
    written = write_beside(source.levels[None].astype(float), [source, source], tmp_path, "a")
    assert written == [tmp_path / "a.png", tmp_path / "grey" / "a.png"]
    with Picture.open(written[0]) as picture:
        # Its own luma and chroma give the image back, but for rounding.
        np.testing.assert_allclose(np.asarray(picture).astype(int), colours, atol=4)
    np.testing.assert_array_equal(np.asarray(Picture.open(written[1])), source.levels)


def test_a_fused_picture_in_colour_keeps_its_own(tmp_path: Path) -> None:
    """Whatever colours a source has."""
    pet = saved(np.full((4, 6, 3), (200, 20, 90), np.uint8), tmp_path / "pet.png")
    assert pet.colour is not None
    written = write_beside(COLOURS.astype(float), [pet, pet], tmp_path, "a")
    assert written == [tmp_path / "a.png", tmp_path / "grey" / "a.png"]
    np.testing.assert_array_equal(np.asarray(Picture.open(written[0])), COLOURS.transpose(1, 2, 0))
    luma = np.tensordot([0.299, 0.587, 0.114], COLOURS, axes=1)
    assert np.abs(np.asarray(Picture.open(written[1])) - luma).max() <= 0.501


def test_volumes_are_8_bit_nifti_in_place_in_grey_and_in_colour(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((2, 4, 6), np.uint8))
    image.SetSpacing((0.5, 1, 3))
    image.SetOrigin((-7, 2, 9))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "source.nii"))
    source, grey = read_grey_image(tmp_path / "source.nii"), np.concatenate([LEVELS, LEVELS / 2])
    in_colour = np.stack([COLOURS, COLOURS[::-1]], axis=1)
    assert write_beside(grey[None], [source, source], tmp_path, "g") == [tmp_path / "g.nii.gz"]
    assert write_beside(in_colour, [source, source], tmp_path, "c") == [tmp_path / "c.nii.gz", tmp_path / "grey" / "c.nii.gz"]
    for name, expected in (("g", np.rint(grey)), ("c", np.moveaxis(in_colour, 0, -1))):
        written = sitk.ReadImage(str(tmp_path / f"{name}.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), expected)
        assert written.GetSpacing() == (0.5, 1, 3)
        np.testing.assert_allclose(written.GetOrigin(), image.GetOrigin())
        np.testing.assert_allclose(written.GetDirection(), image.GetDirection())


def test_chroma_is_blended_by_distance_from_grey() -> None:
    grey, blue, red = (np.full((2, 2, 2), value, np.uint8) for value in ((128, 128), (228, 108), (118, 188)))
    np.testing.assert_array_equal(blended_chroma([blue]), blue)
    np.testing.assert_array_equal(blended_chroma([grey, red]), red)
    # Cb: (100 * 100 - 10 * 10) / 110, Cr: (60 * 60 - 20 * 20) / 80.
    np.testing.assert_array_equal(blended_chroma([blue, red])[0, 0], [128 + 90, 128 + 40])
