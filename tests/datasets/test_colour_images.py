"""Channels of colour files through nnU-Net's readers, and their luma."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image as Picture

from fuse4seg.datasets.colour_images import grey_levels, read_channels
from fuse4seg.errors import UnreadableImageError

COLOURS = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)


class TestReadChannels:
    def test_of_a_volume_are_in_the_order_of_the_reader(self, tmp_path: Path) -> None:
        image = sitk.GetImageFromArray(COLOURS, isVector=True)
        image.SetSpacing((0.5, 1.5, 3))
        sitk.WriteImage(image, str(tmp_path / "a.mha"))
        channels, properties = read_channels(tmp_path / "a.mha", SimpleITKIO)
        assert channels.dtype == np.uint8
        np.testing.assert_array_equal(channels, np.moveaxis(COLOURS, -1, 0))
        assert list(properties["spacing"]) == [3, 1.5, 0.5]

    def test_of_a_picture_are_one_slice(self, tmp_path: Path) -> None:
        Picture.fromarray(COLOURS[0]).save(tmp_path / "a.png")
        channels, _ = read_channels(tmp_path / "a.png", NaturalImage2DIO)
        np.testing.assert_array_equal(channels, np.moveaxis(COLOURS[:1], -1, 0))

    def test_of_a_grey_file_are_one(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(COLOURS[..., 0]), str(tmp_path / "a.nii.gz"))
        channels, _ = read_channels(tmp_path / "a.nii.gz", SimpleITKIO)
        np.testing.assert_array_equal(channels, COLOURS[None, ..., 0])

    def test_of_tiff_have_the_spacing_that_lies_beside_it(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(COLOURS, isVector=True), str(tmp_path / "a.tif"))
        (tmp_path / "a.json").write_text('{"spacing": [3, 1.5, 0.5]}')
        channels, properties = read_channels(tmp_path / "a.tif", Tiff3DIO)
        np.testing.assert_array_equal(channels, np.moveaxis(COLOURS, -1, 0))
        assert properties["spacing"] == [3, 1.5, 0.5]

    @pytest.mark.parametrize("content", [b"", b"no image", None])
    def test_of_what_is_no_image_are_refused(self, tmp_path: Path, content: bytes | None) -> None:
        if content is not None:
            (tmp_path / "a.nii.gz").write_bytes(content)
        with pytest.raises(UnreadableImageError, match=r"a\.nii\.gz cannot be read as an image"):
            read_channels(tmp_path / "a.nii.gz", SimpleITKIO)


class TestGreyLevels:
    @settings(max_examples=50, deadline=None)
    @given(channels=arrays.arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 4), st.integers(1, 4))))
    def test_are_the_luma_rounded(self, channels: np.ndarray) -> None:
        found = grey_levels(channels)
        assert found.dtype == np.uint8
        assert np.abs(found - np.tensordot([0.299, 0.587, 0.114], channels, axes=1)).max() <= 0.5 + 1e-4

    @pytest.mark.parametrize("count", [1, 3])
    def test_of_grey_are_these(self, count: int) -> None:
        grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
        np.testing.assert_array_equal(grey_levels(np.repeat(grey, count, axis=0)), grey[0])
