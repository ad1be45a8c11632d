"""Image files as grey levels and as channels: every kind that is taken, and one line for every kind that is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image as Picture

from fuse4seg.datasets.grey_images import GreyRange, image_files, read_channels, read_grey_image, read_label_image
from fuse4seg.datasets.images import geometry_difference
from fuse4seg.errors import EmptyFolderError, FolderNotFoundError, UnpairedCasesError, UnreadableImageError, UnsuitableImageError
from fuse4seg.inference.image_files import write_fused

LEVELS = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def save_volume(path: Path, voxels: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    return path


class TestPictures:
    def test_grey_is_taken_as_it_is(self, tmp_path: Path) -> None:
        Picture.fromarray(LEVELS).save(tmp_path / "a.png")
        image = read_grey_image(tmp_path / "a.png")
        np.testing.assert_array_equal(image.levels, LEVELS)
        assert image.colour is None
        np.testing.assert_array_equal(image.channels, LEVELS[None])
        assert image.geometry.shape == (4, 6)

    def test_colour_is_taken_by_its_luma(self, tmp_path: Path) -> None:
        colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Picture.fromarray(colours).save(tmp_path / "a.png")
        image = read_grey_image(tmp_path / "a.png")
        # ITU-R BT.601.
        np.testing.assert_allclose(image.levels, colours @ [0.299, 0.587, 0.114], atol=1)
        np.testing.assert_array_equal(image.colour, np.moveaxis(colours, -1, 0))
        np.testing.assert_array_equal(image.channels, image.colour)

    @pytest.mark.parametrize("mode", ["RGB", "P", "LA", "RGBA"])
    def test_grey_in_other_modes_is_grey(self, tmp_path: Path, mode: str) -> None:
        Picture.fromarray(LEVELS).convert(mode).save(tmp_path / "a.png")
        image = read_grey_image(tmp_path / "a.png")
        np.testing.assert_array_equal(image.levels, LEVELS)
        assert image.colour is None

    @pytest.mark.parametrize("ending", [".png", ".jpg"])
    def test_stand_upright(self, tmp_path: Path, ending: str) -> None:
        """A photograph that is stored lying on its side says so."""
        picture, steps = np.repeat(np.repeat(LEVELS, 8, axis=0), 8, axis=1), Picture.Exif()
        steps[0x0112] = 6
        Picture.fromarray(np.rot90(picture).copy()).save(tmp_path / f"a{ending}", exif=steps, quality=100)
        np.testing.assert_allclose(read_grey_image(tmp_path / f"a{ending}").levels.astype(int), picture, atol=3)

    def test_16_bit_and_transparent_ones_are_refused(self, tmp_path: Path) -> None:
        Picture.fromarray(LEVELS.astype(np.uint16) * 256).save(tmp_path / "deep.png")
        with pytest.raises(UnsuitableImageError, match=r"deep\.png is no 8-bit"):
            read_grey_image(tmp_path / "deep.png")
        Picture.merge("LA", [Picture.fromarray(LEVELS)] * 2).save(tmp_path / "clear.png")
        with pytest.raises(UnsuitableImageError, match=r"clear\.png is transparent"):
            read_grey_image(tmp_path / "clear.png")

    @pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n and then nothing"])
    def test_damaged_ones_are_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(UnreadableImageError, match=r"a\.png cannot be read"):
            read_grey_image(tmp_path / "a.png")


class TestVolumes:
    def test_8_bit_is_taken_as_it_is(self, tmp_path: Path) -> None:
        np.testing.assert_array_equal(read_grey_image(save_volume(tmp_path / "a.nii.gz", LEVELS[None])).levels, LEVELS[None])

    def test_in_colour_is_taken_by_its_luma_and_keeps_its_place(self, tmp_path: Path) -> None:
        colours = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 6), dtype=np.uint8)
        grey = sitk.GetImageFromArray(colours[0])
        grey.SetSpacing((0.5, 1.5, 3))
        grey.SetOrigin((7, -8, 9))
        sitk.WriteImage(grey, str(tmp_path / "grey.nii.gz"))
        source = read_grey_image(tmp_path / "grey.nii.gz")
        write_fused(colours, tmp_path, "a", ".nii.gz", source.properties)
        image = read_grey_image(tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(image.colour, colours)
        assert np.abs(image.levels - np.tensordot([0.299, 0.587, 0.114], colours, axes=1)).max() <= 0.501
        assert geometry_difference(image.geometry, source.geometry) is None
        assert image.properties.keys() == source.properties.keys()

    def test_in_colour_that_is_cut_off_is_refused(self, tmp_path: Path) -> None:
        """ITK would take the missing end for black."""
        colours = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 6), dtype=np.uint8)
        source = read_grey_image(save_volume(tmp_path / "grey.nii.gz", colours[0]))
        path, *_ = write_fused(colours, tmp_path, "a", ".nii.gz", source.properties)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(UnreadableImageError, match=r"a\.nii\.gz cannot be read"):
            read_grey_image(path)

    def test_anything_else_is_scaled_from_the_range(self, tmp_path: Path) -> None:
        volume = save_volume(tmp_path / "a.nii.gz", LEVELS[None] / np.float32(255))
        np.testing.assert_allclose(read_grey_image(volume).levels, LEVELS[None], atol=1e-4)
        deep = save_volume(tmp_path / "b.nii", LEVELS[None].astype(np.int16) - 100)
        np.testing.assert_allclose(read_grey_image(deep, GreyRange(-100, 155)).levels, LEVELS[None], atol=1e-4)

    def test_what_leaves_the_range_is_refused_with_both(self, tmp_path: Path) -> None:
        deep = save_volume(tmp_path / "a.nii.gz", LEVELS[None].astype(np.int16))
        with pytest.raises(UnsuitableImageError, match=r"from 0 to 230, outside 0 to 1\. Give .*--range"):
            read_grey_image(deep)

    @pytest.mark.parametrize("levels", [GreyRange(), GreyRange(0, 5, clips=True), None])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_nan_and_infinity_are_refused(self, tmp_path: Path, levels: GreyRange | None, value: float) -> None:
        """ITK gives 0 for both."""
        path = save_volume(tmp_path / "a.nii.gz", np.array([[[0, 1, value]]], np.float32))
        with pytest.raises(UnsuitableImageError, match="holds NaN or infinite"):
            read_grey_image(path, levels)

    def test_any_intensities_are_taken_where_no_range_is_asked_for(self, tmp_path: Path) -> None:
        deep = save_volume(tmp_path / "a.nii.gz", LEVELS[None].astype(np.int16) - 7)
        np.testing.assert_array_equal(read_grey_image(deep, None).levels, LEVELS[None].astype(float) - 7)


class TestLabels:
    def test_are_whole_numbers_as_they_are(self, tmp_path: Path) -> None:
        labels = np.array([[[0, 1, 300]]])
        for name, kind in (("int", np.int16), ("float", np.float32)):
            image = read_label_image(save_volume(tmp_path / f"{name}.nii.gz", labels.astype(kind)))
            assert image.levels.dtype == np.int64
            np.testing.assert_array_equal(image.levels, labels)
        Picture.fromarray(LEVELS).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_label_image(tmp_path / "a.png").levels, LEVELS)

    def test_are_the_indices_of_a_palette(self, tmp_path: Path) -> None:
        picture = Picture.fromarray(LEVELS)
        picture.putpalette([level for index in range(256) for level in (255 - index, index, 7)])
        picture.save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_label_image(tmp_path / "a.png").levels, LEVELS)

    @pytest.mark.parametrize("values", [[0, 0.5], [-1, 2]])
    def test_are_no_other_numbers(self, tmp_path: Path, values: list[float]) -> None:
        path = save_volume(tmp_path / "a.nii", np.array([[values]], np.float64))
        with pytest.raises(UnsuitableImageError, match=r"a\.nii holds other values than 0, 1, 2"):
            read_label_image(path)

    def test_are_not_in_colour(self, tmp_path: Path) -> None:
        Picture.fromarray(np.random.default_rng(0).integers(0, 9, (4, 6, 3), dtype=np.uint8)).save(tmp_path / "a.png")
        with pytest.raises(UnsuitableImageError, match=r"a\.png is in colour, and label values are wanted"):
            read_label_image(tmp_path / "a.png")


class TestFolders:
    def test_names_images_and_passes_over_the_rest(self, tmp_path: Path) -> None:
        for name in ("b.nii.gz", "a.png", "notes.txt", "._a.png"):
            (tmp_path / name).touch()
        (tmp_path / "c.png").mkdir()
        assert image_files(tmp_path) == {"a": tmp_path / "a.png", "b": tmp_path / "b.nii.gz"}

    def test_names_links_that_lead_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").symlink_to(tmp_path / "moved" / "a.png")
        assert image_files(tmp_path) == {"a": tmp_path / "a.png"}
        with pytest.raises(UnreadableImageError, match=r"a\.png"):
            read_grey_image(tmp_path / "a.png")

    def test_missing_and_empty_ones_and_twice_the_same_name_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FolderNotFoundError):
            image_files(tmp_path / "nowhere")
        with pytest.raises(EmptyFolderError, match="Give a folder of images"):
            image_files(tmp_path)
        (tmp_path / "a.png").touch()
        (tmp_path / "a.nii").touch()
        with pytest.raises(UnpairedCasesError, match=r"a\.nii and a\.png"):
            image_files(tmp_path)


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
