"""Files of images: every level comes back from every format, where the input lay, and viewers see colours."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image as Picture

from fuse4seg.errors import UnreadableImageError, UnsuitableImageError, UnwritableFolderError
from fuse4seg.inference.image_files import image_written_whole, read_fused, write_fused, write_image

SHAPE = (5, 6, 7)
AFFINES = {"RAS": np.diag([0.9, 1.1, 2.5, 1]), "LPS": np.diag([-0.9, -1.1, 2.5, 1]),
           "PSR": np.array([[0, 0, 2.5, -30], [-0.9, 0, 0, 12], [0, 1.1, 0, 7], [0, 0, 0, 1]])}
READERS = [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient]
COLOURS = pytest.mark.parametrize("colours", [1, 3])
Case = tuple[dict[str, Any], type[BaseReaderWriter], tuple[int, ...]]


def levels_of(colours: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (colours, *shape), dtype=np.uint8)


def tilted() -> sitk.Image:
    """A source of floating-point numbers that lies obliquely."""
    image = sitk.GetImageFromArray(np.random.default_rng(1).random(SHAPE, dtype=np.float32))
    image.SetOrigin((-12.5, 40, 3))
    image.SetSpacing((0.7, 1.2, 3))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.1, -0.2, 0.3).GetMatrix())
    return image


@pytest.fixture
def source(tmp_path: Path, request: pytest.FixtureRequest) -> Case:
    """Properties, reader and shape of a case of the ending that the test is parametrised with."""
    ending, reader = request.param
    path, shape = tmp_path / f"source_0000{ending}", SHAPE
    if reader is Tiff3DIO:
        sitk.WriteImage(sitk.GetImageFromArray(levels_of(1)[0]), str(path))
        (tmp_path / "source.json").write_text('{"spacing": [3, 0.5, 2]}')
    elif reader is NaturalImage2DIO:
        shape = (1, *SHAPE[1:])
        Picture.fromarray(levels_of(1)[0, 0]).save(path)
    else:
        sitk.WriteImage(tilted(), str(path))
    return reader().read_images([str(path)])[1], reader, shape


ENDINGS = pytest.mark.parametrize("source", [
    (".nii.gz", SimpleITKIO), (".nii", NibabelIO), (".nrrd", SimpleITKIO), (".mha", SimpleITKIO), (".png", NaturalImage2DIO),
    (".bmp", NaturalImage2DIO), (".tif", NaturalImage2DIO), (".tif", Tiff3DIO), (".tiff", Tiff3DIO)],
    indirect=True, ids=lambda given: f"{given[0]}-{given[1].__name__}")


class TestRoundTrip:
    @COLOURS
    @ENDINGS
    def test_gives_back_every_level_and_the_spacing(self, source: Case, colours: int, tmp_path: Path,
                                                    request: pytest.FixtureRequest) -> None:
        properties, reader, shape = source
        ending = request.node.callspec.params["source"][0]
        (tmp_path / "fused").mkdir()
        path, *_ = write_fused(levels_of(colours, shape), tmp_path / "fused", "a.b_c", ending, properties)
        assert path == tmp_path / "fused" / f"a.b_c{ending}"
        found, again = read_fused(path, reader, colours=colours)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, levels_of(colours, shape))
        assert list(again["spacing"]) == list(properties["spacing"])
        assert not list((tmp_path / "fused").rglob(".*"))

    @COLOURS
    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("order", AFFINES)
    def test_keeps_the_place_whatever_the_order_of_axes(self, order: str, reader: type[BaseReaderWriter], colours: int,
                                                        tmp_path: Path) -> None:
        affine = AFFINES[order].copy()
        affine[:3, 3] += [10, -20, 30]
        nibabel.save(nibabel.Nifti1Image(np.random.default_rng(1).random(SHAPE, dtype=np.float32), affine),
                     tmp_path / "in.nii.gz")
        read, properties = reader().read_images([str(tmp_path / "in.nii.gz")])
        levels = levels_of(colours, read.shape[1:])
        path, *_ = write_fused(levels, tmp_path, "out", ".nii.gz", properties)
        written = nibabel.load(path)
        np.testing.assert_allclose(written.affine, affine, atol=1e-5)
        assert written.shape == SHAPE
        np.testing.assert_array_equal(read_fused(path, reader)[0], levels)

    @COLOURS
    def test_keeps_a_2d_nifti_2d(self, colours: int, tmp_path: Path) -> None:
        image = sitk.GetImageFromArray(np.ones((6, 7), np.float32))
        image.SetSpacing((0.5, 0.25))
        sitk.WriteImage(image, str(tmp_path / "in.nii.gz"))
        _, properties = SimpleITKIO().read_images([str(tmp_path / "in.nii.gz")])
        path, *_ = write_fused(levels_of(colours, (1, 6, 7)), tmp_path, "out", ".nii.gz", properties)
        written = sitk.ReadImage(str(path))
        assert (written.GetSize(), written.GetSpacing()) == ((7, 6), (0.5, 0.25))
        np.testing.assert_array_equal(read_fused(path, SimpleITKIO)[0], levels_of(colours, (1, 6, 7)))


class TestColour:
    def test_in_nifti_is_rgb24_which_viewers_show(self, tmp_path: Path) -> None:
        """Data type 128 of the NIfTI standard; nibabel and ITK read the same levels in the same place."""
        sitk.WriteImage(tilted(), str(tmp_path / "in.nii.gz"))
        _, properties = SimpleITKIO().read_images([str(tmp_path / "in.nii.gz")])
        path, *_ = write_fused(levels_of(3), tmp_path, "out", ".nii.gz", properties)
        stored, image = nibabel.load(path), sitk.ReadImage(str(path))
        assert int(stored.header["datatype"]) == 128
        assert int(stored.header["bitpix"]) == 24
        assert stored.shape == SHAPE[::-1]
        np.testing.assert_allclose(stored.affine, nibabel.load(tmp_path / "in.nii.gz").affine, atol=1e-6)
        colours = np.asanyarray(stored.dataobj)
        np.testing.assert_array_equal(np.stack([colours[channel].T for channel in "RGB"]), levels_of(3))
        assert image.GetPixelID() == sitk.sitkVectorUInt8
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), np.moveaxis(levels_of(3), 0, -1))
        assert image.GetDirection() == pytest.approx(tilted().GetDirection(), abs=1e-6)

    def test_in_png_is_rgb(self, tmp_path: Path) -> None:
        levels = levels_of(3, (1, 6, 7))
        path, *_ = write_fused(levels, tmp_path, "out", ".png", {"spacing": (999, 1, 1)})
        with Picture.open(path) as picture:
            assert picture.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(picture), np.moveaxis(levels[:, 0], 0, -1))

    @ENDINGS
    def test_has_its_luma_beside_it(self, source: Case, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        """Pillow's grey is within a level of it: its weights are the same, rounded to 16 bits, and ties go up."""
        properties, reader, shape = source
        ending = request.node.callspec.params["source"][0]
        (tmp_path / "fused").mkdir()
        path, *others = write_fused(levels_of(3, shape), tmp_path / "fused", "a", ending, properties)
        grey = tmp_path / "fused" / "grey" / f"a{ending}"
        assert grey in others
        found, again = read_fused(grey, reader, colours=1)
        assert list(again["spacing"]) == list(properties["spacing"])
        for slice_number, red_green_blue in enumerate(np.moveaxis(levels_of(3, shape), 0, -1)):
            pillows = np.asarray(Picture.fromarray(red_green_blue).convert("L")).astype(int)
            assert np.abs(found[0, slice_number] - pillows).max() <= 1
        exact = np.tensordot([0.299, 0.587, 0.114], levels_of(3, shape), axes=1)
        assert np.abs(found[0] - exact).max() <= 0.5 + 1e-4

    def test_of_tiff_has_its_spacing_beside_each_file(self, tmp_path: Path) -> None:
        written = write_fused(levels_of(3), tmp_path, "a", ".tif", {"spacing": (3, 0.5, 2)})
        assert [str(path.relative_to(tmp_path)) for path in written] == ["a.tif", "a.json", "grey/a.tif", "grey/a.json"]
        assert json.loads((tmp_path / "a.json").read_text()) == {"spacing": [3, 0.5, 2]}

    def test_is_refused_where_the_format_has_none(self, tmp_path: Path) -> None:
        with pytest.raises(UnsuitableImageError, match=r"a\.gipl cannot be written: its format has no colours"):
            write_fused(levels_of(3), tmp_path, "a", ".gipl", {"spacing": (1, 1, 1)})
        assert not list(tmp_path.iterdir())


class TestGrey:
    def test_is_one_file_of_8_bits(self, tmp_path: Path) -> None:
        sitk.WriteImage(tilted(), str(tmp_path / "in.nii.gz"))
        _, properties = SimpleITKIO().read_images([str(tmp_path / "in.nii.gz")])
        (tmp_path / "fused").mkdir()
        (path,) = write_fused(levels_of(1), tmp_path / "fused", "out", ".nii.gz", properties)
        assert list((tmp_path / "fused").iterdir()) == [path]
        assert sitk.ReadImage(str(path)).GetPixelID() == sitk.sitkUInt8
        assert nibabel.load(path).get_data_dtype() == np.uint8


class TestRefused:
    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, Path]:
        """Images that are no fused image of one model or the other."""
        sitk.WriteImage(tilted(), str(tmp_path / "float.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(levels_of(1)[0].astype(np.int16)), str(tmp_path / "deep.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((*SHAPE, 2), np.uint8), isVector=True), str(tmp_path / "two.mha"))
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((*SHAPE, 3), np.float32), isVector=True), str(tmp_path / "reals.mha"))
        _, properties = SimpleITKIO().read_images([str(tmp_path / "float.nii.gz")])
        for name, colours in (("grey", 1), ("colour", 3)):
            (tmp_path / name).mkdir()
            write_fused(levels_of(colours), tmp_path / name, name, ".nii.gz", properties)
        whole = (tmp_path / "colour" / "colour.nii.gz").read_bytes()
        (tmp_path / "cut.nii.gz").write_bytes(whole[:-100])
        (tmp_path / "none.nii.gz").write_bytes(b"no image")
        (tmp_path / "none.bmp").write_bytes(b"no image")
        return {path.name.split(".")[0]: path for path in tmp_path.rglob("*.*")} | {
            "bitmap": tmp_path / "none.bmp", "none": tmp_path / "none.nii.gz", "colour": tmp_path / "colour" / "colour.nii.gz",
            "grey": tmp_path / "grey" / "grey.nii.gz"}

    @pytest.mark.parametrize(("name", "colours", "said"), [
        ("colour", 1, "is in colour, but the model reads fused images in grey"),
        ("grey", 3, "is in grey, but the model reads fused images in colour"),
        ("two", 3, "is in 2 channels, but"), ("float", 1, "holds 32-bit float, not 8 bits"),
        ("deep", 1, "holds 16-bit signed integer, not 8 bits"), ("reals", 3, "holds vector of 32-bit float, not 8 bits")])
    def test_for_what_it_holds(self, files: dict[str, Path], name: str, colours: int, said: str) -> None:
        with pytest.raises(UnsuitableImageError, match=f"^{files[name]} {said}"):
            read_fused(files[name], SimpleITKIO, colours=colours)

    @pytest.mark.parametrize("name", ["cut", "none", "bitmap"])
    def test_for_damage(self, files: dict[str, Path], name: str) -> None:
        """ITK takes the missing end of a packed file for zeros."""
        with pytest.raises(UnreadableImageError, match=f"^{files[name]} cannot be read"):
            read_fused(files[name], SimpleITKIO, colours=3)

    def test_for_being_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableImageError, match="nothing.nii.gz cannot be read"):
            read_fused(tmp_path / "nothing.nii.gz", SimpleITKIO)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".png", ".tif"])
@COLOURS
def test_leaves_nothing_on_a_full_disk(ending: str, colours: int, tmp_path: Path) -> None:
    properties: dict[str, Any] = {"spacing": (1, 1, 1)}
    if ending in (".nii.gz", ".mha"):
        identity = np.eye(3).ravel().tolist()
        properties["sitk_stuff"] = {"spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": identity}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UnwritableFolderError, match=str(tmp_path)):
            write_fused(levels_of(colours, (1, 300, 300)), tmp_path, "a", ending, properties)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.rglob("*.*"))


class TestWriteImage:
    AFFINES = {"RAS": np.diag([0.9, 1.1, 2.5, 1]), "LPS": np.diag([-0.9, -1.1, 2.5, 1]),
               "PSR": np.array([[0, 0, 2.5, -30], [-0.9, 0, 0, 12], [0, 1.1, 0, 7], [0, 0, 0, 1]])}

    @pytest.fixture
    def voxels(self) -> np.ndarray:
        return np.random.default_rng(1).random((5, 6, 7), dtype=np.float32)

    @pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient])
    @pytest.mark.parametrize("order", AFFINES)
    def test_gives_back_what_was_read_where_it_was(self, voxels: np.ndarray, order: str, reader: type[BaseReaderWriter],
                                                   tmp_path: Path) -> None:
        affine = self.AFFINES[order].copy()
        affine[:3, 3] += [10, -20, 30]
        nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "in.nii.gz")
        read, properties = reader().read_images([str(tmp_path / "in.nii.gz")])
        write_image(read[0], tmp_path / "out.nii.gz", properties)
        written = nibabel.load(tmp_path / "out.nii.gz")
        np.testing.assert_allclose(written.affine, affine, atol=1e-5)
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), voxels)

    @pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
    def test_keeps_origin_spacing_and_direction(self, voxels: np.ndarray, ending: str, tmp_path: Path) -> None:
        tilted = sitk.Euler3DTransform((0, 0, 0), 0.1, -0.2, 0.3).GetMatrix()
        image = sitk.GetImageFromArray(voxels)
        image.SetOrigin((-12.5, 40, 3))
        image.SetSpacing((0.7, 1.2, 3))
        image.SetDirection(tilted)
        sitk.WriteImage(image, str(tmp_path / f"in{ending}"))
        read, properties = SimpleITKIO().read_images([str(tmp_path / f"in{ending}")])
        write_image(read[0], tmp_path / f"out{ending}", properties)
        written = sitk.ReadImage(str(tmp_path / f"out{ending}"))
        assert written.GetPixelID() == sitk.sitkFloat32
        assert written.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-4)
        assert written.GetSpacing() == pytest.approx(image.GetSpacing(), abs=1e-6)
        assert written.GetDirection() == pytest.approx(tilted, abs=1e-6)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), voxels)

    def test_keeps_a_2d_nifti_2d(self, tmp_path: Path) -> None:
        image = sitk.GetImageFromArray(np.random.default_rng(2).random((6, 7), dtype=np.float32))
        image.SetSpacing((0.5, 0.25))
        sitk.WriteImage(image, str(tmp_path / "in.nii.gz"))
        read, properties = SimpleITKIO().read_images([str(tmp_path / "in.nii.gz")])
        write_image(read[0], tmp_path / "out.nii.gz", properties)
        written = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
        assert written.GetSize() == (7, 6)
        assert written.GetSpacing() == (0.5, 0.25)

    def test_writes_8_bit_png(self, tmp_path: Path) -> None:
        voxels = np.array([[[0, 0.5, 1], [-0.1, 0.2, 1.2]]], np.float32)
        write_image(voxels, tmp_path / "out.png", {"spacing": (999, 1, 1)})
        read, _ = NaturalImage2DIO().read_images([str(tmp_path / "out.png")])
        np.testing.assert_array_equal(read[0, 0], [[0, 128, 255], [0, 51, 255]])

    def test_keeps_all_pages_of_a_tiff(self, voxels: np.ndarray, tmp_path: Path) -> None:
        write_image(voxels, tmp_path / "out.tif", {"spacing": (1, 1, 1)})
        read, _ = Tiff3DIO().read_images([str(tmp_path / "out.tif")])
        np.testing.assert_array_equal(read[0], np.rint(voxels * 255))

    @pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd", ".png", ".tif"])
    def test_leaves_nothing_on_a_full_disk(self, ending: str, tmp_path: Path) -> None:
        properties: dict[str, Any] = {"spacing": (1, 1, 1)}
        if ending not in (".png", ".tif"):
            identity = np.eye(3).ravel().tolist()
            properties["sitk_stuff"] = {"spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": identity}
        voxels = np.random.default_rng(3).random((1, 300, 300), dtype=np.float32)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises(UnwritableFolderError, match=str(tmp_path)):
                write_image(voxels, tmp_path / f"out{ending}", properties)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["x.nii.nii.gz", "x.hdr.nii.gz", "x.img.nii", "x.gz.nii.gz", "x.nii.png",
                                      f"{240 * 'x'}.mha"])
    def test_keeps_the_whole_name(self, voxels: np.ndarray, name: str, tmp_path: Path) -> None:
        """ITK writes x.nii.nii.gz as x.nii.gz, and x.hdr.nii.gz as x.hdr.gz."""
        write_image(voxels[:1], tmp_path / name, {"spacing": (1, 1, 1)})
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert Path(name).suffix == ".png" or sitk.ReadImage(str(tmp_path / name)).GetSize()[:2] == voxels.shape[:0:-1]

    def test_calls_no_disk_full_that_is_not(self, tmp_path: Path) -> None:
        """What a writer finds wrong with an image is a fault of its case."""
        with pytest.raises(ValueError, match="samples"), image_written_whole(tmp_path / "a.tif", {}) as temporary:
            NaturalImage2DIO().write_seg(np.ones((1, 3, 9), np.uint8), str(temporary), {})
        assert not list(tmp_path.iterdir())

    def test_leaves_no_temporary_file(self, voxels: np.ndarray, tmp_path: Path) -> None:
        write_image(voxels, tmp_path / "out.tif", {"spacing": (1, 1, 1)})
        assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]
