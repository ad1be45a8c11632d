"""Studies as cases, and as a raw dataset."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.datasets.dicom import convert_dicom, dicom_cases, write_dicom_case
from fuse4seg.datasets.dicom_series import find_studies
from fuse4seg.datasets.phantom import make_phantom
from fuse4seg.datasets.series_rules import read_rules
from fuse4seg.errors import (
    AmbiguousImagesError,
    DatasetExistsError,
    FaultyCasesError,
    FaultyImageError,
    MissingModalityError,
    OptionError,
)
from tests.dicom_phantoms import SeriesWriter


@pytest.fixture(scope="module")
def volumes() -> list[sitk.Image]:
    images = [sitk.GetImageFromArray(np.rint(voxels).astype(np.int16)) for voxels in make_phantom(3, shape=(32, 32, 36)).images]
    for image in images:
        image.SetSpacing((1.0, 1.25, 2.5))
    return images


def write(folder: Path, volumes: list[sitk.Image], *, patient: str = "P1", **about: str) -> SeriesWriter:
    writer = SeriesWriter(folder, patient=patient, study=patient, **about)
    for volume, description in zip(volumes, ("AX T1", "AX T1 +C", "AX T2", "AX FLAIR"), strict=False):
        writer.write(volume, description)
    return writer


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


class TestCases:
    def test_have_a_series_for_each_channel(self, volumes: list[sitk.Image], tmp_path: Path) -> None:
        write(tmp_path, volumes)
        cases, faults = dicom_cases(find_studies(tmp_path), ["FLAIR", "t1gd"], read_rules(), reference=1)
        assert faults == {}
        (case,) = cases.values()
        assert [series.description for series in case.series] == ["AX FLAIR", "AX T1 +C"]
        assert (case.name, case.reference) == ("P1_20200131", 1)

    def test_without_a_channel_are_none_unless_that_is_allowed(self, volumes: list[sitk.Image], tmp_path: Path) -> None:
        write(tmp_path, volumes[:2])
        found = find_studies(tmp_path)
        _, faults = dicom_cases(found, ["T2", "T1ce"], read_rules())
        assert [type(fault) for fault in faults.values()] == [MissingModalityError]
        assert all(str(fault).endswith("--series_rules, or leave the study out.") for fault in faults.values())
        cases, faults = dicom_cases(found, ["T2", "T1ce"], read_rules(), allow_missing=True)
        assert faults == {}
        assert cases["P1_20200131"].reference == 1

    def test_of_ambiguous_series_are_none(self, volumes: list[sitk.Image], tmp_path: Path) -> None:
        write(tmp_path, volumes).write(volumes[0], "SAG T1")
        cases, faults = dicom_cases(find_studies(tmp_path), ["T1", "T2"], read_rules())
        assert cases == {}
        assert [type(fault) for fault in faults.values()] == [AmbiguousImagesError]

    def test_need_a_rule_for_each_channel(self, volumes: list[sitk.Image], tmp_path: Path) -> None:
        write(tmp_path, volumes)
        with pytest.raises(OptionError, match=r"no rule says which series is b 1000.*\[\[\"b 1000\"\]\]"):
            dicom_cases(find_studies(tmp_path), ["T1", "b 1000"], read_rules())


class TestFiles:
    def test_are_on_the_grid_of_the_reference(self, volumes: list[sitk.Image], tmp_path: Path,
                                              caplog: pytest.LogCaptureFixture) -> None:
        write(tmp_path / "in", [volumes[0], volumes[1][2:, 3:]])
        cases, _ = dicom_cases(find_studies(tmp_path / "in"), ["T1", "T1ce"], read_rules(), reference=1)
        write_dicom_case(cases["P1_20200131"], ["T1", "T1ce"], tmp_path)
        assert "P1_20200131: T1 is resampled linearly, from 36 x 32 x 32 voxels" in caplog.text
        # The grids differ by whole voxels, so interpolation changes none.
        np.testing.assert_allclose(voxels(tmp_path / "P1_20200131_0000.nii.gz"),
                                   sitk.GetArrayFromImage(volumes[0])[:, 3:, 2:], rtol=1e-5)
        np.testing.assert_array_equal(voxels(tmp_path / "P1_20200131_0001.nii.gz"),
                                      sitk.GetArrayFromImage(volumes[1])[:, 3:, 2:])

    def test_another_frame_of_reference_and_the_units_of_pet_are_told(self, volumes: list[sitk.Image], tmp_path: Path,
                                                                      caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        write(tmp_path / "in", volumes[:1]).write(volumes[1], "PET AC", modality="PT", Units="BQML", FrameOfReferenceUID="1.9")
        cases, _ = dicom_cases(find_studies(tmp_path / "in"), ["T1", "PET"], read_rules())
        write_dicom_case(cases["P1_20200131"], ["T1", "PET"], tmp_path)
        assert "PET is in another frame of reference than T1" in caplog.text
        assert "PET is in the units of its header, BQML, and not turned into SUV" in caplog.text

    def test_of_no_volume_are_refused(self, volumes: list[sitk.Image], tmp_path: Path) -> None:
        write(tmp_path / "in", volumes[:1]).write(volumes[1], "AX T2", order=[0, 1, 3, 4])
        cases, _ = dicom_cases(find_studies(tmp_path / "in"), ["T1", "T2"], read_rules())
        with pytest.raises(FaultyImageError, match=r"lacks 1 slice\(s\)"):
            write_dicom_case(cases["P1_20200131"], ["T1", "T2"], tmp_path)


class TestDataset:
    @pytest.fixture(autouse=True)
    def raw(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
        return tmp_path / "raw"

    def test_holds_every_study_and_the_channels_that_were_found(self, volumes: list[sitk.Image], raw: Path,
                                                                tmp_path: Path) -> None:
        for patient in ("A", "B"):
            write(tmp_path / "in", volumes, patient=patient)
        convert_dicom(tmp_path / "in", 7)
        dataset = raw / "Dataset007_DICOM"
        told = json.loads((dataset / "dataset.json").read_text())
        assert told["channel_names"] == {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
        assert (told["labels"], told["numTraining"]) == ({"background": 0}, 2)
        for patient in ("A", "B"):
            for number, volume in enumerate(volumes):
                found = voxels(dataset / "imagesTr" / f"{patient}_20200131_{number:04d}.nii.gz")
                np.testing.assert_array_equal(found, sitk.GetArrayFromImage(volume))

    def test_holds_the_channels_that_are_wanted(self, volumes: list[sitk.Image], raw: Path, tmp_path: Path) -> None:
        write(tmp_path / "in", volumes)
        convert_dicom(tmp_path / "in", 7, name="Two", channels=["FLAIR", "T1"])
        images = raw / "Dataset007_Two" / "imagesTr"
        assert [path.name for path in sorted(images.iterdir())] == ["P1_20200131_0000.nii.gz", "P1_20200131_0001.nii.gz"]
        np.testing.assert_array_equal(voxels(images / "P1_20200131_0000.nii.gz"), sitk.GetArrayFromImage(volumes[3]))

    def test_is_not_written_where_a_study_is_faulty(self, volumes: list[sitk.Image], raw: Path, tmp_path: Path) -> None:
        write(tmp_path / "in", volumes, patient="A")
        write(tmp_path / "in", volumes[:2], patient="B")
        write(tmp_path / "in", volumes[:3], patient="C").write(volumes[3], "AX FLAIR", order=[0, 1, 3])
        with pytest.raises(FaultyCasesError) as caught:
            convert_dicom(tmp_path / "in", 7)
        assert [line.split()[1].strip(":") for line in caught.value.faults] == ["B_20200131", "C_20200131"]
        assert list(raw.iterdir()) == []

    def test_is_not_written_over_another(self, volumes: list[sitk.Image], raw: Path, tmp_path: Path) -> None:
        write(tmp_path / "in", volumes)
        (raw / "Dataset007_Other").mkdir(parents=True)
        with pytest.raises(DatasetExistsError):
            convert_dicom(tmp_path / "in", 7)
