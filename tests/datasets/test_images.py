"""Single images: voxels and geometry as nnU-Net reads them, and faults that its readers pass over."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from skimage.io import imsave

from fuse4seg.datasets.images import Geometry, find_reader, geometry_difference, is_finite, read_image
from fuse4seg.errors import UnreadableImageError, UnsupportedFormatError

GEOMETRY = Geometry((3, 4, 5), (3.0, 2.0, 1.0), (10.0, 20.0, 30.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    volume = SimpleITK.GetImageFromArray(np.random.default_rng(0).random((3, 4, 5), np.float32))
    volume.SetSpacing((1, 2, 3))
    volume.SetOrigin((10, 20, 30))
    SimpleITK.WriteImage(volume, str(tmp_path / "image.nii.gz"))
    return tmp_path / "image.nii.gz"


class TestReadImage:
    def test_gives_voxels_and_geometry_in_the_order_of_the_array(self, image: Path) -> None:
        read = read_image(image, SimpleITKIO)
        np.testing.assert_array_equal(read.voxels[0], np.random.default_rng(0).random((3, 4, 5), np.float32))
        assert geometry_difference(read.geometry, GEOMETRY) is None

    def test_gives_the_affine_of_a_file_read_with_nibabel(self, image: Path) -> None:
        geometry = read_image(image, NibabelIO).geometry
        np.testing.assert_allclose(geometry.origin, nibabel.load(image).affine[:3, 3])
        assert np.linalg.det(np.reshape(geometry.direction, (3, 3))) == pytest.approx(1)

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


class TestIsFinite:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
    def test_sees_what_itk_hides(self, tmp_path: Path, value: float, ending: str) -> None:
        path = tmp_path / f"image{ending}"
        volume = SimpleITK.GetImageFromArray(np.array([[[1, 2, value]]], np.float32))
        SimpleITK.WriteImage(volume, str(path))
        assert not is_finite(read_image(path, SimpleITKIO))

    def test_believes_itk_where_nibabel_refuses_a_header(self, tmp_path: Path) -> None:
        """Voxels that begin at byte 128, within the header, which ITK puts right in silence."""
        whole = nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4)).to_bytes()
        (tmp_path / "image.nii").write_bytes(whole[:108] + np.array([128], "<f4").tobytes() + whole[112:])
        assert is_finite(read_image(tmp_path / "image.nii", SimpleITKIO))

    def test_accepts_whole_and_broken_numbers(self, image: Path, tmp_path: Path) -> None:
        whole = tmp_path / "whole.nii.gz"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((2, 2, 2), np.int16)), str(whole))
        assert all(is_finite(read_image(path, SimpleITKIO)) for path in (image, whole))


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
