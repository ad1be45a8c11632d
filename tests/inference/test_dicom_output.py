"""What is given back as DICOM, read by pydicom, highdicom, ITK and dciodvfy, none of which wrote it alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from fuse4seg.datasets.dicom_series import find_studies
from fuse4seg.datasets.dicom_volume import Stack, stack_series
from fuse4seg.inference.dicom_output import Maker, identifier, write_dicom
from tests.dicom_phantoms import SeriesWriter

SHAPE = (6, 9, 7)
LABELS = {"background": 0, "necrotic core": 1, "oedema": 2, "enhancing tumour": 3, "cyst\\x": 4}
MAKER = Maker("Fuse4SegTrainer__Fuse4SegPlans__2d", ["ab" * 32, "cd" * 32], {"labels": LABELS})


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    labels[[0, 4]] = 0
    return labels


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)


def image() -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(2).integers(0, 500, SHAPE).astype(np.int16))
    image.SetSpacing((0.9, 1.1, 3.0))
    image.SetOrigin((11.5, -20.25, 30.125))
    turned = Rotation.from_euler("xyz", [8, -12, 20], degrees=True).as_matrix() @ np.diag([-1.0, -1.0, 1.0])
    image.SetDirection(turned.ravel().tolist())
    return image


def stack(folder: Path, *, multi_frame: bool = False, **header: str) -> Stack:
    """Stored from the last slice to the first."""
    SeriesWriter(folder).write(image(), "T1", multi_frame=multi_frame, order=range(SHAPE[0])[::-1], **header)
    (study,) = find_studies(folder).studies.values()
    return stack_series(study.series[0], study.name)


def errors_of(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


@pytest.fixture(params=[False, True], ids=["single-frame", "multi-frame"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Stack:
    return stack(tmp_path / "in", multi_frame=request.param)


class TestSegmentation:
    @pytest.fixture
    def written(self, source: Stack, labels: np.ndarray, tmp_path: Path) -> Path:
        (path,) = write_dicom(source, labels, {}, tmp_path / "out", MAKER)
        return path

    def test_holds_the_labels_where_they_lie(self, written: Path, labels: np.ndarray) -> None:
        volume = highdicom.seg.segread(written).get_volume(combine_segments=True).to_simpleitk()
        expected = sitk.GetImageFromArray(labels)
        expected.CopyInformation(image())
        found = sitk.Resample(volume, expected, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), labels)

    def test_holds_a_frame_for_each_slice_of_each_class_by_pydicom_alone(self, written: Path, labels: np.ndarray) -> None:
        dataset = pydicom.dcmread(written)
        found = np.zeros(SHAPE, np.uint8)
        normal, first = np.reshape(image().GetDirection(), (3, 3))[:, 2], np.array(image().GetOrigin())
        for frame, groups in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
            index = round(float((place - first) @ normal / 3.0))
            found[index][frame > 0] = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(found, labels)

    def test_names_classes_and_what_made_it(self, written: Path) -> None:
        dataset = pydicom.dcmread(written)
        names = [item.SegmentLabel for item in dataset.SegmentSequence]
        assert names == ["necrotic core", "oedema", "enhancing tumour", "cyst x"]
        meanings = [item.SegmentedPropertyTypeCodeSequence[0] for item in dataset.SegmentSequence]
        assert [(item.CodingSchemeDesignator, item.CodeValue) for item in meanings] == [
            ("SCT", "6574001"), ("SCT", "79654002"), ("SCT", "108369006"), ("99FUSE4SEG", "cyst_x")]
        assert dataset.ManufacturerModelName == MAKER.model

    def test_refers_to_the_study_and_its_slices(self, written: Path, source: Stack) -> None:
        dataset = pydicom.dcmread(written)
        assert dataset.StudyInstanceUID == source.datasets[0].StudyInstanceUID
        assert dataset.FrameOfReferenceUID == source.datasets[0].FrameOfReferenceUID
        assert dataset.PatientID == "P1"
        referenced = {item.ReferencedSOPInstanceUID for series in dataset.ReferencedSeriesSequence
                      for item in series.ReferencedInstanceSequence}
        assert referenced == {one.SOPInstanceUID for one in source.datasets}

    def test_is_read_by_itk(self, written: Path, labels: np.ndarray) -> None:
        frames = sum(int((labels[index] == value).any()) for index in range(SHAPE[0]) for value in (1, 2, 3))
        assert sitk.ReadImage(str(written)).GetSize() == (SHAPE[2], SHAPE[1], frames)

    @pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools are not installed")
    def test_is_valid(self, written: Path) -> None:
        assert errors_of(written) == []

    def test_of_nothing_is_there_and_empty(self, source: Stack, tmp_path: Path) -> None:
        (path,) = write_dicom(source, np.zeros(SHAPE, np.uint8), {}, tmp_path / "out", MAKER)
        assert not pydicom.dcmread(path).pixel_array.any()

    def test_of_regions_has_one_that_overlap(self, source: Stack, labels: np.ndarray, tmp_path: Path) -> None:
        regions = {"labels": {"background": 0, "whole": [1, 2, 3], "core": [1, 3]}, "regions_class_order": [1, 2]}
        (path,) = write_dicom(source, labels, {}, tmp_path / "out", Maker("m", [], regions))
        found = highdicom.seg.segread(path)
        counts = [found.get_volume(segment_numbers=[number]).array.sum() for number in (1, 2)]
        assert counts == [np.isin(labels, [1, 2, 3]).sum(), np.isin(labels, [1, 3]).sum()]


class TestFusedImage:
    @pytest.fixture
    def written(self, source: Stack, colours: np.ndarray, tmp_path: Path) -> list[Path]:
        return write_dicom(source, None, {"fused": colours}, tmp_path / "out", MAKER)

    def test_is_a_slice_per_file_in_colour(self, written: list[Path], colours: np.ndarray) -> None:
        assert [path.name for path in written] == [f"{number:04d}.dcm" for number in range(1, SHAPE[0] + 1)]
        np.testing.assert_array_equal(np.stack([pydicom.dcmread(path).pixel_array for path in written]), colours)

    def test_is_a_volume_in_its_place_to_itk(self, written: list[Path], colours: np.ndarray) -> None:
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(written[0].parent))
        found = sitk.ReadImage(names)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), colours)
        for name in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(getattr(found, name)(), getattr(image(), name)(), atol=1e-5)

    def test_refers_to_the_study_and_to_the_slice_below(self, written: list[Path], source: Stack) -> None:
        for index, path in enumerate(written):
            dataset = pydicom.dcmread(path)
            assert dataset.StudyInstanceUID == source.datasets[0].StudyInstanceUID
            assert dataset.FrameOfReferenceUID == source.datasets[0].FrameOfReferenceUID
            (item,) = dataset.SourceImageSequence
            assert item.ReferencedSOPInstanceUID == source.datasets[0 if source.is_multi_frame else index].SOPInstanceUID
            if source.is_multi_frame:
                groups = source.datasets[0].PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
                place = groups.PlanePositionSequence[0].ImagePositionPatient
            else:
                place = source.datasets[index].ImagePositionPatient
            np.testing.assert_allclose(np.array(dataset.ImagePositionPatient, float), np.array(place, float), atol=1e-5)

    def test_in_grey_is_grey(self, source: Stack, tmp_path: Path, colours: np.ndarray) -> None:
        written = write_dicom(source, None, {"fused": colours[..., 0]}, tmp_path / "grey", MAKER)
        dataset = pydicom.dcmread(written[2])
        assert dataset.PhotometricInterpretation == "MONOCHROME2"
        np.testing.assert_array_equal(dataset.pixel_array, colours[2, ..., 0])

    def test_of_several_weights_are_series_of_their_own(self, source: Stack, tmp_path: Path, colours: np.ndarray) -> None:
        written = write_dicom(source, None, {"fused/fold_0": colours, "fused/fold_1": colours}, tmp_path / "two", MAKER)
        assert len({pydicom.dcmread(path).SeriesInstanceUID for path in written}) == 2
        assert len({pydicom.dcmread(path).SOPInstanceUID for path in written}) == len(written)

    @pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools are not installed")
    def test_is_valid(self, written: list[Path]) -> None:
        assert errors_of(written[0]) == []


class TestRepetition:
    def test_gives_the_same_bytes(self, source: Stack, labels: np.ndarray, colours: np.ndarray, tmp_path: Path) -> None:
        first, second = (write_dicom(source, labels, {"fused": colours}, tmp_path / name, MAKER) for name in ("a", "b"))
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]

    def test_of_another_result_or_by_other_weights_gives_other_identifiers(self, source: Stack, labels: np.ndarray,
                                                                           tmp_path: Path) -> None:
        other = Maker(MAKER.model, ["ef" * 32], MAKER.dataset_json)
        made = [write_dicom(source, found, {}, tmp_path / str(number), maker)[0]
                for number, (found, maker) in enumerate([(labels, MAKER), (labels[::-1], MAKER), (labels, other)])]
        assert len({pydicom.dcmread(path).SOPInstanceUID for path in made}) == 3

    def test_removes_slices_of_an_earlier_prediction_and_nothing_else(self, source: Stack, colours: np.ndarray,
                                                                      tmp_path: Path) -> None:
        folder = tmp_path / "out" / "fused"
        folder.mkdir(parents=True)
        for name in ("0007.dcm", "notes.txt"):
            (folder / name).write_text("x")
        write_dicom(source, None, {"fused": colours}, tmp_path / "out", MAKER)
        assert {path.name for path in folder.iterdir()} == {*(f"000{number}.dcm" for number in range(1, 7)), "notes.txt"}


class TestOddHeaders:
    @pytest.mark.parametrize("header", [{"PatientSex": "UNKNOWN"}, {"PatientName": "no caret, and a,comma"}, {"PatientID": ""},
                                        {"StudyDate": "", "ContentDate": ""}, {"PatientBirthDate": "19000230"},
                                        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"}])
    @pytest.mark.filterwarnings("ignore:.*:UserWarning")
    def test_are_taken_as_they_are(self, header: dict[str, str], labels: np.ndarray, colours: np.ndarray, tmp_path: Path) -> None:
        written = write_dicom(stack(tmp_path / "in", **header), labels, {"fused": colours}, tmp_path / "out", MAKER)
        for path in (written[0], written[1]):
            dataset = pydicom.dcmread(path)
            assert str(dataset.PatientName) == header.get("PatientName", "Phantom^Head")
            assert str(dataset.get("PatientSex") or "") in header.get("PatientSex", "O")


def test_identifiers_are_uids_that_depend_on_every_part() -> None:
    assert identifier("a", "b") == identifier("a", "b")
    assert len({identifier("a", "b"), identifier("a", "c"), identifier("b", "b")}) == 3
    assert pydicom.uid.UID(identifier("a")).is_valid
