"""Single images: voxels and geometry as nnU-Net reads them, and faults that its readers pass over."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from skimage.io import imsave

from fuse4seg.datasets.images import Geometry, find_reader, geometry_difference, read_image
from fuse4seg.errors import Fuse4SegError, UnreadableImageError, UnsuitableImageError, UnsupportedFormatError

GEOMETRY = Geometry((3, 4, 5), (3.0, 2.0, 1.0), (10.0, 20.0, 30.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    volume = SimpleITK.GetImageFromArray(np.random.default_rng(0).random((3, 4, 5), np.float32))
    volume.SetSpacing((1, 2, 3))
    volume.SetOrigin((10, 20, 30))
    SimpleITK.WriteImage(volume, str(tmp_path / "image.nii.gz"))
    return tmp_path / "image.nii.gz"


def write_pages(path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.arange(60, dtype=np.uint8).reshape(3, 4, 5)), str(path))


class TestReadImage:
    def test_gives_voxels_and_geometry_in_the_order_of_the_array(self, image: Path) -> None:
        read = read_image(image, SimpleITKIO)
        np.testing.assert_array_equal(read.voxels[0], np.random.default_rng(0).random((3, 4, 5), np.float32))
        assert geometry_difference(read.geometry, GEOMETRY) is None

    def test_gives_the_affine_of_a_file_read_with_nibabel(self, image: Path) -> None:
        geometry = read_image(image, NibabelIO).geometry
        np.testing.assert_allclose(geometry.origin, nibabel.load(image).affine[:3, 3])
        assert np.linalg.det(np.reshape(geometry.direction, (3, 3))) == pytest.approx(1)

    def test_takes_the_spacing_beside_a_tiff_of_labels(self, tmp_path: Path) -> None:
        """It lies under the label's whole name, that of an image under the case's."""
        for name in ("a_0000", "a"):
            write_pages(tmp_path / f"{name}.tif")
        (tmp_path / "a.json").write_text('{"spacing": [3, 0.5, 2]}')
        image, label = (read_image(tmp_path / f"{name}.tif", Tiff3DIO, labels=name == "a") for name in ("a_0000", "a"))
        assert image.geometry.spacing == label.geometry.spacing == (3, 0.5, 2)

    def test_gives_no_position_to_a_picture(self, tmp_path: Path) -> None:
        imsave(tmp_path / "image.png", np.zeros((4, 5), np.uint8), check_contrast=False)
        geometry = read_image(tmp_path / "image.png", NaturalImage2DIO).geometry
        assert geometry == Geometry((1, 4, 5), (999, 1, 1))

    @pytest.mark.parametrize("kept", [0, 40, -6, -1])
    def test_refuses_a_truncated_file(self, image: Path, kept: int) -> None:
        image.write_bytes(image.read_bytes()[:kept])
        with pytest.raises(UnreadableImageError, match=r"image\.nii\.gz cannot be read") as caught:
            read_image(image, SimpleITKIO)
        assert "\n" not in str(caught.value)

    def test_refuses_what_is_no_image(self, image: Path) -> None:
        image.write_bytes(b"no image")
        with pytest.raises(UnreadableImageError):
            read_image(image, SimpleITKIO)

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
    def test_takes_no_memory_for_voxels_that_only_the_header_claims(self, tmp_path: Path, ending: str, reader: type) -> None:
        """Sixty terabytes, of which it would get as far as the system lets it."""
        whole = nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4)).to_bytes()
        claiming = whole[:42] + np.array([25000] * 3, "<i2").tobytes() + whole[48:]
        path = tmp_path / f"image{ending}"
        path.write_bytes(gzip.compress(claiming) if ending.endswith(".gz") else claiming)
        with pytest.raises(UnreadableImageError, match="its header claims 15625000000000 voxels"):
            read_image(path, reader)

    def test_takes_fewer_bytes_per_voxel_than_it_gives(self, tmp_path: Path) -> None:
        """A scaled header makes doubles of bytes."""
        image = nibabel.Nifti1Image(np.arange(60, dtype=np.uint8).reshape(3, 4, 5), np.eye(4))
        image.header.set_slope_inter(0.5, 0)
        nibabel.save(image, tmp_path / "image.nii")
        assert read_image(tmp_path / "image.nii", SimpleITKIO).voxels.max() == 29.5

    def test_refuses_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableImageError):
            read_image(tmp_path / "image.mha", SimpleITKIO)


class TestWhatCannotBeUsed:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".nrrd"])
    @pytest.mark.parametrize("labels", [False, True])
    def test_is_what_holds_nan_or_infinity_which_itk_hides(self, tmp_path: Path, value: float, ending: str, labels: bool) -> None:
        path = tmp_path / f"image{ending}"
        volume = SimpleITK.GetImageFromArray(np.array([[[1, 2, value]]], np.float32))
        SimpleITK.WriteImage(volume, str(path))
        with pytest.raises(UnsuitableImageError, match=f"image{ending} holds NaN or infinite intensities"):
            read_image(path, SimpleITKIO, labels=labels)

    @pytest.mark.parametrize("spacing", [[0, 1, 1], [-1, 1, 1], [1, 1, float("nan")], [1, float("inf"), 1]])
    @pytest.mark.parametrize(("labels", "beside"), [(False, "a"), (True, "a_0000")])
    def test_is_a_spacing_that_is_not_above_0(self, tmp_path: Path, spacing: list[float], labels: bool, beside: str) -> None:
        write_pages(tmp_path / "a_0000.tif")
        (tmp_path / f"{beside}.json").write_text(json.dumps({"spacing": spacing}))
        with pytest.raises(Fuse4SegError, match=r"a_0000\.tif .*[Ss]pacing"):
            read_image(tmp_path / "a_0000.tif", Tiff3DIO, labels=labels)

    def test_is_a_spacing_that_is_no_number(self, tmp_path: Path) -> None:
        write_pages(tmp_path / "a_0000.tif")
        (tmp_path / "a.json").write_text('{"spacing": ["one", 1, 1]}')
        with pytest.raises(UnreadableImageError, match=r"a_0000\.tif"):
            read_image(tmp_path / "a_0000.tif", Tiff3DIO)

    @pytest.mark.parametrize("labels", [False, True])
    def test_has_four_dimensions(self, tmp_path: Path, labels: bool) -> None:
        voxels = np.arange(120, dtype=np.uint8).reshape(3, 4, 5, 2)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
        with pytest.raises(UnsuitableImageError, match=r"a\.nii\.gz has 4 dimensions"):
            read_image(tmp_path / "a.nii.gz", SimpleITKIO, labels=labels)

    def test_believes_itk_where_nibabel_refuses_a_header(self, tmp_path: Path) -> None:
        """Voxels that begin at byte 128, within the header, which ITK puts right in silence."""
        whole = nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4)).to_bytes()
        (tmp_path / "image.nii").write_bytes(whole[:108] + np.array([128], "<f4").tobytes() + whole[112:])
        assert read_image(tmp_path / "image.nii", SimpleITKIO).voxels.size == 60

    def test_is_a_volume_of_tiff_pages_that_nnunet_takes_for_colours(self, tmp_path: Path) -> None:
        pages = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pages), str(tmp_path / "a.tif"))
        with pytest.raises(UnsuitableImageError, match="a.tif was read as 4 channels, and 1 wanted"):
            read_image(tmp_path / "a.tif", NaturalImage2DIO)

    def test_is_no_singleton_axis(self, tmp_path: Path) -> None:
        voxels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5, 1)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz", SimpleITKIO).voxels[0], voxels[..., 0].T)


class TestFindReader:
    def test_passes_over_unreadable_examples_in_silence(self, image: Path, capfd: pytest.CaptureFixture[str]) -> None:
        faulty = image.with_name("faulty.nii.gz")
        faulty.write_bytes(b"no image")
        assert find_reader({"file_ending": ".nii.gz"}, [faulty, image]) is SimpleITKIO
        assert find_reader({"file_ending": ".nii.gz"}, [faulty]) is SimpleITKIO
        assert capfd.readouterr() == ("", "")

    def test_obeys_dataset_json(self, image: Path) -> None:
        content = {"file_ending": ".nii.gz", "overwrite_image_reader_writer": "NibabelIO"}
        assert find_reader(content, [image]) is NibabelIO

    @pytest.mark.parametrize("name", ["os", "np", "abstractmethod", "NoSuchReader"])
    def test_takes_nothing_but_readers_by_name(self, image: Path, name: str) -> None:
        assert find_reader({"file_ending": ".nii.gz", "overwrite_image_reader_writer": name}, [image]) is SimpleITKIO

    def test_refuses_a_format_that_nnunet_does_not_read(self) -> None:
        with pytest.raises(UnsupportedFormatError, match=r"\.jpg"):
            find_reader({"file_ending": ".jpg"}, [])


class TestGeometryDifference:
    @pytest.mark.parametrize(("field", "value"), [
        ("shape", (3, 4, 6)), ("shape", (3, 4)), ("spacing", (3.0, 2.0, 1.001)), ("origin", (10.0, 20.0, 30.1)),
        ("origin", ()), ("direction", (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))])
    def test_names_what_differs(self, field: str, value: tuple[float, ...]) -> None:
        changed = Geometry(**{**GEOMETRY.__dict__, field: value})
        assert str(geometry_difference(changed, GEOMETRY)).startswith(field)

    def test_forgives_the_rounding_of_a_header(self) -> None:
        rounded = Geometry(GEOMETRY.shape, GEOMETRY.spacing, (10.0, 20.0, 30.0001), GEOMETRY.direction)
        assert geometry_difference(rounded, GEOMETRY) is None
