"""Series as volumes: against what was written, against ITK's own reader, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from scipy.spatial.transform import Rotation

from fuse4seg.datasets.dicom_series import find_studies
from fuse4seg.datasets.dicom_volume import Stack, read_stack, stack_series
from fuse4seg.errors import FaultyImageError, Fuse4SegError, UnreadableImageError
from tests.dicom_phantoms import SeriesWriter

SLICES = 6
Write = Callable[..., list[Path]]


@pytest.fixture
def image() -> sitk.Image:
    """Oblique, with x and y reversed."""
    voxels = np.random.default_rng(1).integers(-50, 900, (SLICES, 7, 5)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.9, 1.1, 3.0))
    image.SetOrigin((11.5, -20.25, 30.125))
    turned = Rotation.from_euler("xyz", [8, -12, 20], degrees=True).as_matrix() @ np.diag([-1.0, -1.0, 1.0])
    image.SetDirection(turned.ravel().tolist())
    return image


def stacked(folder: Path) -> Stack:
    (study,) = find_studies(folder).studies.values()
    return stack_series(study.series[0], study.name)


def assert_same(found: sitk.Image, expected: sitk.Image, *, slope: float = 1, intercept: float = 0) -> None:
    np.testing.assert_allclose(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected) * slope + intercept, rtol=1e-6)
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(found, name)(), getattr(expected, name)(), atol=1e-6)


@pytest.mark.parametrize("multi_frame", [False, True])
@pytest.mark.parametrize("order", [range(SLICES), range(SLICES)[::-1], [3, 0, 5, 1, 4, 2]], ids=["along", "reversed", "mixed"])
def test_is_what_was_written_in_whatever_order(image: sitk.Image, multi_frame: bool, order: list[int], tmp_path: Path) -> None:
    SeriesWriter(tmp_path).write(image, "T1", multi_frame=multi_frame, order=order, slope=0.5, intercept=-3)
    assert_same(read_stack(stacked(tmp_path)), image, slope=0.5, intercept=-3)


@pytest.mark.parametrize("order", [range(SLICES), range(SLICES)[::-1]])
def test_is_what_itks_own_reader_of_series_reads(image: sitk.Image, order: list[int], tmp_path: Path) -> None:
    paths = SeriesWriter(tmp_path).write(image, "T1", order=order)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(paths[0].parent))
    assert_same(read_stack(stacked(tmp_path)), sitk.ReadImage(names))


def test_each_slice_has_its_own_scale(image: sitk.Image, tmp_path: Path) -> None:
    def scale(number: int, dataset: Dataset) -> None:
        dataset.RescaleSlope = f"{0.25 * (number + 1)}"

    SeriesWriter(tmp_path).write(image, "PET AC", modality="PT", change=scale)
    expected = sitk.GetArrayFromImage(image) * (0.25 * np.arange(1, SLICES + 1))[:, None, None]
    np.testing.assert_allclose(sitk.GetArrayFromImage(read_stack(stacked(tmp_path))), expected, rtol=1e-6)


def test_files_compressed_without_loss_are_read(image: sitk.Image, tmp_path: Path) -> None:
    for path in SeriesWriter(tmp_path).write(image, "T1"):
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    assert_same(read_stack(stacked(tmp_path)), image)


def test_what_pydicom_does_not_decode_is_decoded_by_itk(image: sitk.Image, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    for path in SeriesWriter(tmp_path).write(image, "T1", slope=0.5):
        dataset = pydicom.dcmread(path)
        dataset.compress(JPEGLSLossless)
        dataset.save_as(path)
    monkeypatch.setattr("fuse4seg.datasets.dicom_volume._is_decoded_by_pydicom", lambda dataset: False)
    assert_same(read_stack(stacked(tmp_path)), image, slope=0.5)


class TestNoVolume:
    """One line each, which names the case, the series and a mend."""

    @pytest.fixture
    def refused(self, image: sitk.Image, tmp_path: Path) -> Callable[..., str]:
        def write(*, change: Callable[[int, Dataset], None] | None = None, multi_frame: bool = False,
                  order: list[int] | None = None) -> str:
            SeriesWriter(tmp_path).write(image, "T1", order=order, change=change, multi_frame=multi_frame)
            with pytest.raises(FaultyImageError) as caught:
                stacked(tmp_path)
            said = str(caught.value)
            assert said.startswith("case P1_20200131: series 1 'T1' (")
            assert len(said.splitlines()) == 1
            assert said.endswith(".")
            return said

        return write

    @pytest.mark.parametrize("multi_frame", [False, True])
    def test_gaps(self, refused: Callable[..., str], multi_frame: bool) -> None:
        said = refused(order=[0, 1, 2, 5], multi_frame=multi_frame)
        assert "lacks 2 slice(s): two neighbours are 9 mm apart, and others 3 mm" in said

    @pytest.mark.parametrize("multi_frame", [False, True])
    def test_doubled_places(self, refused: Callable[..., str], multi_frame: bool) -> None:
        def again(number: int, dataset: Dataset) -> None:
            dataset.SOPInstanceUID = f"1.2.{number + 1}"

        assert "holds 2 slice(s) at places that others have" in refused(order=[0, 1, 2, 3, 1, 2], change=again,
                                                                        multi_frame=multi_frame)

    def test_several_orientations(self, refused: Callable[..., str]) -> None:
        def turn(number: int, dataset: Dataset) -> None:
            if number == 3:
                dataset.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]

        assert "several orientations" in refused(change=turn)

    def test_several_sizes(self, refused: Callable[..., str]) -> None:
        def cut(number: int, dataset: Dataset) -> None:
            if number == 3:
                dataset.Rows = 6

        assert "several sizes" in refused(change=cut)

    def test_a_tilted_gantry(self, refused: Callable[..., str]) -> None:
        def tilt(number: int, dataset: Dataset) -> None:
            row = np.array(dataset.ImageOrientationPatient[:3], dtype=float)
            moved = np.array(dataset.ImagePositionPatient, dtype=float) + 0.8 * number * row
            dataset.ImagePositionPatient = [f"{value:.6f}" for value in moved]

        assert "sheared" in refused(change=tilt)

    def test_uneven_steps(self, refused: Callable[..., str], image: sitk.Image) -> None:
        def move(number: int, dataset: Dataset) -> None:
            normal = np.reshape(image.GetDirection(), (3, 3))[:, 2]
            moved = np.array(dataset.ImagePositionPatient, dtype=float) + 0.05 * number**2 * normal
            dataset.ImagePositionPatient = [f"{value:.6f}" for value in moved]

        assert "mm apart. Resample it evenly." in refused(change=move)

    def test_one_slice(self, refused: Callable[..., str]) -> None:
        assert "holds one slice" in refused(order=[2])

    def test_no_place(self, refused: Callable[..., str]) -> None:
        def forget(number: int, dataset: Dataset) -> None:
            del dataset.ImagePositionPatient

        assert "does not say where its slices lie" in refused(change=forget)

    def test_several_volumes(self, image: sitk.Image, tmp_path: Path) -> None:
        writer = SeriesWriter(tmp_path)
        for _ in range(2):
            writer.write(image, "T1", multi_frame=True, SeriesInstanceUID="1.2.3")
        with pytest.raises(FaultyImageError, match="holds several volumes"):
            stacked(tmp_path)


class TestUnreadable:
    def read(self, folder: Path) -> Fuse4SegError:
        with pytest.raises(UnreadableImageError) as caught:
            read_stack(stacked(folder))
        assert len(str(caught.value).splitlines()) == 1
        return caught.value

    @pytest.mark.parametrize("multi_frame", [False, True])
    def test_an_unknown_transfer_syntax(self, image: sitk.Image, multi_frame: bool, tmp_path: Path) -> None:
        for path in SeriesWriter(tmp_path).write(image, "T1", multi_frame=multi_frame):
            dataset = pydicom.dcmread(path)
            dataset.compress(RLELossless)
            dataset.save_as(path)
            path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.9.9.9\0"))
        said = str(self.read(tmp_path))
        assert "its transfer syntax, 1.2.840.10008.9.9.9, is not known here" in said
        assert said.endswith("gdcmconv --raw IN OUT")

    @pytest.mark.parametrize("multi_frame", [False, True])
    def test_pixels_that_are_cut_off(self, image: sitk.Image, multi_frame: bool, tmp_path: Path) -> None:
        path = SeriesWriter(tmp_path).write(image, "T1", multi_frame=multi_frame)[-1]
        path.write_bytes(path.read_bytes()[:-11])
        assert str(path) in str(self.read(tmp_path))

    def test_damaged_compression(self, image: sitk.Image, tmp_path: Path) -> None:
        path = SeriesWriter(tmp_path).write(image, "T1")[0]
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.save_as(path)
        assert str(path) in str(self.read(tmp_path))
