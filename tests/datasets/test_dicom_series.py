"""Studies and series below a folder, by their headers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import BasicTextSRStorage

from fuse4seg.datasets.dicom_series import find_studies
from fuse4seg.errors import EmptyFolderError, FolderNotFoundError
from tests.dicom_phantoms import SeriesWriter


def image(slices: int = 3) -> sitk.Image:
    return sitk.GetImageFromArray(np.arange(slices * 20, dtype=np.int16).reshape(slices, 4, 5))


class TestStudies:
    def test_are_told_apart_in_one_folder_and_named_by_patient_and_date(self, tmp_path: Path) -> None:
        for patient, name, date in (("P1", "one", "20200131"), ("P1", "two", "20210203"), ("a/b c", "three", "")):
            SeriesWriter(tmp_path / "in", patient=patient, study=name, date=date).write(image(), "T1")
        flat = tmp_path / "flat"
        flat.mkdir()
        for number, path in enumerate(sorted((tmp_path / "in").rglob("IM*"))):
            shutil.copy(path, flat / f"file{number}")
        for folder in (tmp_path / "in", flat):
            found = find_studies(folder)
            assert list(found.studies) == ["P1_20200131", "P1_20210203", "a-b-c"]
            assert [len(study.series) for study in found.studies.values()] == [1, 1, 1]
            assert found.faults == {}

    def test_of_one_patient_and_day_get_a_hash_each_that_stays(self, tmp_path: Path) -> None:
        SeriesWriter(tmp_path / "in", study="one").write(image(), "T1")
        SeriesWriter(tmp_path / "in", study="two").write(image(), "T1")
        SeriesWriter(tmp_path / "in", study="three", patient="p1").write(image(), "T1")
        names = list(find_studies(tmp_path / "in").studies)
        assert len({name.casefold() for name in names}) == 3
        assert all(name[:-8] in ("P1_20200131_", "p1_20200131_") for name in names)
        shutil.rmtree(tmp_path / "in" / "two_1")
        left = list(find_studies(tmp_path / "in").studies)
        assert set(left) <= set(names)

    def test_without_a_patients_id_are_named_by_a_hash(self, tmp_path: Path) -> None:
        SeriesWriter(tmp_path, patient="").write(image(), "T1")
        (name,) = find_studies(tmp_path).studies
        assert name.startswith("study-")
        assert name.endswith("_20200131")

    def test_of_two_patients_with_one_uid_are_two(self, tmp_path: Path) -> None:
        SeriesWriter(tmp_path / "a", patient="A").write(image(), "T1")
        SeriesWriter(tmp_path / "b", patient="B").write(image(), "T1", SOPInstanceUID="1")
        for number, path in enumerate(sorted((tmp_path / "b").rglob("IM*"))):
            copied = pydicom.dcmread(path)
            copied.SOPInstanceUID = copied.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number + 1}"
            copied.save_as(path)
        assert list(find_studies(tmp_path).studies) == ["A_20200131", "B_20200131"]


class TestSeries:
    def test_hold_what_rules_ask_for(self, tmp_path: Path) -> None:
        writer = SeriesWriter(tmp_path)
        writer.write(image(), "AX T1", ProtocolName="Brain", SequenceName="tfl3d", ScanningSequence=["GR", "IR"])
        writer.write(image(), "AX T1", ContrastBolusAgent="Gadobutrol", multi_frame=True)
        writer.write(image(), "AX T1", ContrastBolusAgent="NONE")
        plain, enhanced, none = find_studies(tmp_path).studies["P1_20200131"].series
        assert (plain.number, plain.description, plain.sequence, plain.modality, plain.contrast) == (
            1, "AX T1 | Brain", "tfl3d  GR IR", "MR", False)
        assert (enhanced.number, enhanced.contrast, len(enhanced.files)) == (2, True, 1)
        assert not none.contrast
        assert [path.name for path in plain.files] == ["IM0000", "IM0001", "IM0002"]

    def test_of_other_kinds_are_passed_over(self, tmp_path: Path) -> None:
        writer = SeriesWriter(tmp_path)
        writer.write(image(), "T1")
        writer.write(image(), "scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        writer.write(image(), "screenshot", SamplesPerPixel=3)
        for path in writer.write(image(), "report"):
            report = pydicom.dcmread(path)
            report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
            report.save_as(path)
        (tmp_path / "notes.txt").write_text("none")
        assert [one.description for one in find_studies(tmp_path).studies["P1_20200131"].series] == ["T1"]

    def test_copies_of_a_file_count_once(self, tmp_path: Path) -> None:
        SeriesWriter(tmp_path / "in").write(image(), "T1")
        shutil.copytree(tmp_path / "in", tmp_path / "in" / "copy")
        (study,) = find_studies(tmp_path / "in").studies.values()
        assert [len(one.files) for one in study.series] == [3]


class TestFaults:
    def test_a_damaged_file_is_that_of_the_studies_beside_it(self, tmp_path: Path) -> None:
        SeriesWriter(tmp_path, study="one", patient="A").write(image(), "T1")
        SeriesWriter(tmp_path, study="two", patient="B").write(image(), "T1")
        damaged = tmp_path / "one_1" / "IM0001"
        damaged.write_bytes(damaged.read_bytes()[:200])
        found = find_studies(tmp_path)
        assert list(found.studies) == ["B_20200131"]
        assert list(found.faults) == ["A_20200131"]
        assert f"case A_20200131: {damaged} cannot be read" in str(found.faults["A_20200131"])

    def test_a_damaged_file_alone_is_named(self, tmp_path: Path) -> None:
        SeriesWriter(tmp_path).write(image(), "T1")
        (tmp_path / "x.dcm").write_bytes(b"no DICOM at all")
        found = find_studies(tmp_path)
        assert list(found.studies) == ["P1_20200131"]
        assert list(found.faults) == [str(tmp_path / "x.dcm")]

    def test_a_folder_without_images_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FolderNotFoundError):
            find_studies(tmp_path / "nowhere")
        SeriesWriter(tmp_path).write(image(), "scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        with pytest.raises(EmptyFolderError, match="DICOM images of MR, CT or PET"):
            find_studies(tmp_path)
