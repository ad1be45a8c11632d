"""Files in colour as one channel: luma, grey, or refused; and as red, green and blue."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image as Picture

from fuse4seg.datasets.images import read_image
from fuse4seg.datasets.raw import expected_cases
from fuse4seg.errors import UnreadableImageError, UnsuitableImageError

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def written(path: Path, colours: np.ndarray) -> Path:
    if path.suffix in (".png", ".bmp"):
        Picture.fromarray(colours).save(path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(path))
    return path


class TestColourAsOneChannel:
    @pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
    def test_is_the_luma_of_a_picture_and_is_said(self, ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = written(tmp_path / f"a_0000{ending}", COLOURS)

        with caplog.at_level(logging.WARNING):
            image = read_image(path, NaturalImage2DIO)

        assert np.array_equal(image.voxels[0, 0], np.asarray(Picture.fromarray(COLOURS).convert("L")))
        assert f"{tmp_path}: images in colour stand for one channel, and their luma is taken" in caplog.text

    @pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
    def test_is_the_luma_of_a_volume_where_it_lies(self, ending: str, tmp_path: Path) -> None:
        volume = np.stack([COLOURS, COLOURS[::-1]])
        path = tmp_path / f"a_0000{ending}"
        stored = sitk.GetImageFromArray(volume, isVector=True)
        stored.SetSpacing((1.5, 2.0, 3.0))
        sitk.WriteImage(stored, str(path))

        image = read_image(path, SimpleITKIO)

        expected = [np.asarray(Picture.fromarray(part).convert("L")) for part in volume]
        assert np.array_equal(image.voxels[0], expected)
        assert image.geometry.spacing == (3.0, 2.0, 1.5)

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
    def test_grey_saved_in_another_mode_is_grey_labels_too(self, mode: str, tmp_path: Path) -> None:
        grey = Picture.fromarray(COLOURS[..., 0] % 4)
        grey.convert(mode).save(tmp_path / "a.png")

        image = read_image(tmp_path / "a.png", NaturalImage2DIO, labels=True)

        assert np.array_equal(image.voxels[0, 0], np.asarray(grey))

    def test_of_label_values_is_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.png", COLOURS)

        with pytest.raises(UnsuitableImageError, match="a.png is in colour, and label values are wanted"):
            read_image(path, NaturalImage2DIO, labels=True)

    def test_that_shines_through_is_refused(self, tmp_path: Path) -> None:
        Picture.fromarray(np.dstack([COLOURS, COLOURS[..., 0]])).save(tmp_path / "a.png")

        with pytest.raises(UnsuitableImageError, match="transparent in places"):
            read_image(tmp_path / "a.png", NaturalImage2DIO)


class TestColourAsThreeChannels:
    def test_one_file_holds_red_green_and_blue(self, tmp_path: Path) -> None:
        written(tmp_path / "a_0000.png", COLOURS)

        case = expected_cases(tmp_path, channels=["R", "G", "B"], file_ending=".png")["a"]
        image = read_image(tmp_path / "a_0000.png", NaturalImage2DIO, channels=3)

        assert case.files == {tmp_path / "a_0000.png": [0, 1, 2]}
        assert np.array_equal(image.voxels[:, 0], COLOURS.transpose(2, 0, 1))

    def test_so_many_files_as_channels_hold_one_each(self, tmp_path: Path) -> None:
        for number in range(3):
            written(tmp_path / f"a_{number:04d}.png", COLOURS)

        case = expected_cases(tmp_path, channels=["R", "G", "B"], file_ending=".png")["a"]

        assert list(case.files.values()) == [[0], [1], [2]]

    def test_a_file_behind_it_is_the_fourth_channel(self, tmp_path: Path) -> None:
        for number in range(2):
            written(tmp_path / f"a_{number:04d}.png", COLOURS)

        case = expected_cases(tmp_path, channels=["R", "G", "B", "MRI"], file_ending=".png")["a"]

        assert list(case.files.values()) == [[0, 1, 2], [3]]


def test_a_name_in_latin_1_is_refused_before_itk_sees_it(tmp_path: Path) -> None:
    path = Path(str(tmp_path), b"M\xfcller.nii.gz".decode(errors="surrogateescape"))
    path.write_bytes(b"")

    with pytest.raises(UnreadableImageError, match="its name is not in UTF-8"):
        read_image(path, SimpleITKIO)
