"""f4s_predict of DICOM, end to end: what NIfTI files of the same voxels give, and one line for bad studies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from fuse4seg.cli.predict import main
from tests.dicom_phantoms import SeriesWriter

DESCRIPTIONS = ("t1_mprage", "t1_mprage_km", "t2_tse", "t2_tirm_dark-fluid")


@pytest.fixture(scope="module")
def volumes(untrained_phantom: Path) -> list[sitk.Image]:
    """Oblique volumes of whole numbers, T1, T1ce, T2 and FLAIR."""
    folder = untrained_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    return [sitk.Cast(sitk.Round(sitk.ReadImage(str(path))), sitk.sitkInt16) for path in sorted(folder.glob("*.nii.gz"))]


def predict(root: Path, images: Path, output: Path, *flags: str) -> int:
    return main(["-i", str(images), "-o", str(output), "--root", str(root), "-device", "cpu", "-npp", "0", "-nps", "0", *flags])


@pytest.fixture(scope="module")
def by_nifti(untrained_phantom: Path, volumes: list[sitk.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What NIfTI files of these volumes give, as case a."""
    folder = tmp_path_factory.mktemp("nifti")
    for number, volume in enumerate(volumes):
        sitk.WriteImage(sitk.Cast(volume, sitk.sitkFloat32), str(folder / f"a_{number:04d}.nii.gz"))
    assert predict(untrained_phantom, folder, folder / "out") == 0
    return folder / "out"


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def write_study(folder: Path, volumes: Sequence[sitk.Image], *, multi_frame: Sequence[bool] = (False,) * 4,
                orders: Sequence[Sequence[int] | None] = (None,) * 4, **about: str) -> None:
    writer = SeriesWriter(folder, **about)
    for volume, description, together, order in zip(volumes, DESCRIPTIONS, multi_frame, orders, strict=False):
        writer.write(volume, description, multi_frame=together, order=order)


@pytest.fixture(scope="module")
def predicted(untrained_phantom: Path, volumes: list[sitk.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of studies that are stored in every way: its sub-folder out holds what was predicted."""
    folder, backwards = tmp_path_factory.mktemp("dicom"), range(volumes[0].GetSize()[2])[::-1]
    mixed = [*range(0, len(backwards), 2), *range(1, len(backwards), 2)]
    write_study(folder / "in", volumes, patient="single", study="1")
    write_study(folder / "in", volumes, patient="single", study="2", date="20210101", orders=[backwards, None, mixed, backwards])
    write_study(folder / "in", volumes, patient="multi", study="3", multi_frame=[True] * 4, orders=[None, backwards, mixed, None])
    write_study(folder / "in", volumes, patient="both", study="4", multi_frame=[False, True, False, True])
    assert predict(untrained_phantom, folder / "in", folder / "out") == 0
    return folder / "out"


CASES = ("single_20200131", "single_20210101", "multi_20200131", "both_20200131")


@pytest.mark.parametrize("case", CASES)
class TestStudy:
    def test_is_segmented_and_fused_as_nifti_files_are(self, case: str, predicted: Path, by_nifti: Path) -> None:
        for place in ("", "fused", "fused/grey"):
            np.testing.assert_array_equal(voxels(predicted / place / f"{case}.nii.gz"), voxels(by_nifti / place / "a.nii.gz"))
        assert len(np.unique(voxels(by_nifti / "a.nii.gz"))) > 1

    def test_gets_its_segmentation_back_as_dicom(self, case: str, predicted: Path, by_nifti: Path) -> None:
        found = highdicom.seg.segread(predicted / "dicom" / case / "segmentation.dcm")
        volume = found.get_volume(combine_segments=True).to_simpleitk()
        labels = sitk.ReadImage(str(by_nifti / "a.nii.gz"))
        # Empty slices at the ends are left out.
        whole = sitk.Resample(volume, labels, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(whole), sitk.GetArrayFromImage(labels))
        assert [item.SegmentLabel for item in found.SegmentSequence] == ["necrotic_core", "oedema", "enhancing_tumour"]

    def test_gets_its_fused_image_back_as_dicom(self, case: str, predicted: Path, by_nifti: Path) -> None:
        slices = [pydicom.dcmread(path) for path in sorted((predicted / "dicom" / case / "fused").glob("*.dcm"))]
        expected = sitk.ReadImage(str(by_nifti / "fused" / "a.nii.gz"))
        np.testing.assert_array_equal(np.stack([one.pixel_array for one in slices]), sitk.GetArrayFromImage(expected))
        np.testing.assert_allclose(np.array(slices[0].ImagePositionPatient, float), expected.GetOrigin(), atol=1e-3)


class TestRun:
    def test_tells_studies_of_a_patient_apart(self, predicted: Path) -> None:
        studies = {pydicom.dcmread(predicted / "dicom" / case / "segmentation.dcm").StudyInstanceUID for case in CASES}
        assert len(studies) == len(CASES)

    def test_is_repeated_and_gone_on_with_byte_for_byte(self, predicted: Path, untrained_phantom: Path, tmp_path: Path) -> None:
        shutil.copytree(predicted, tmp_path / "out")
        shutil.rmtree(tmp_path / "out" / "dicom" / CASES[0])
        (tmp_path / "out" / f"{CASES[1]}.nii.gz").unlink()
        assert predict(untrained_phantom, predicted.parent / "in", tmp_path / "out", "--continue_prediction") == 0
        for path in predicted.rglob("*"):
            if path.is_file() and path.suffix in (".dcm", ".gz"):
                assert (tmp_path / "out" / path.relative_to(predicted)).read_bytes() == path.read_bytes(), path

    def test_takes_its_own_output_below_the_input_for_no_study(self, volumes: list[sitk.Image], untrained_phantom: Path,
                                                               tmp_path: Path) -> None:
        write_study(tmp_path / "in", volumes)
        for _ in range(2):
            assert predict(untrained_phantom, tmp_path / "in", tmp_path / "in" / "out") == 0
        assert [path.name for path in (tmp_path / "in" / "out" / "dicom").iterdir()] == ["P1_20200131"]


class TestBadInput:
    """One line each, status 1, and nothing written unless other studies are sound."""

    def refused(self, root: Path, images: Path, output: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
        assert predict(root, images, output, *flags) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1
        assert not output.exists()
        return said[0]

    def test_a_study_without_one_modality(self, volumes: list[sitk.Image], untrained_phantom: Path, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
        write_study(tmp_path / "in", volumes[:3])
        said = self.refused(untrained_phantom, tmp_path / "in", tmp_path / "out", capsys)
        assert "case P1_20200131 has no FLAIR image. The study holds series 1 " in said
        assert said.endswith("or leave the study out, or predict with --allow_missing.")
        assert "series 3 't2_tse'" in said
        assert predict(untrained_phantom, tmp_path / "in", tmp_path / "out", "--allow_missing") == 0
        assert json.loads((tmp_path / "out" / "missing_modalities.json").read_text()) == {"P1_20200131": ["FLAIR"]}
        assert (tmp_path / "out" / "dicom" / "P1_20200131" / "segmentation.dcm").is_file()

    def test_ambiguous_series_are_settled_by_the_table_that_is_shown(
            self, volumes: list[sitk.Image], untrained_phantom: Path, tmp_path: Path, by_nifti: Path,
            capsys: pytest.CaptureFixture[str]) -> None:
        write_study(tmp_path / "in", volumes)
        SeriesWriter(tmp_path / "in", written=4).write(volumes[1], "t1_se_sag")
        said = self.refused(untrained_phantom, tmp_path / "in", tmp_path / "out", capsys)
        assert "T1 could be series 1 't1_mprage'" in said
        (tmp_path / "rules.toml").write_text(said.partition("for example ")[2])
        assert predict(untrained_phantom, tmp_path / "in", tmp_path / "out", "--series_rules", str(tmp_path / "rules.toml")) == 0
        np.testing.assert_array_equal(voxels(tmp_path / "out" / "P1_20200131.nii.gz"), voxels(by_nifti / "a.nii.gz"))

    def test_a_faulty_study_does_not_end_the_run_for_sound_ones(
            self, volumes: list[sitk.Image], untrained_phantom: Path, tmp_path: Path, by_nifti: Path,
            capsys: pytest.CaptureFixture[str]) -> None:
        write_study(tmp_path / "in", volumes, patient="sound")
        write_study(tmp_path / "in", volumes, patient="gap", study="gap", orders=[None, None, [0, 1, 2, 4, 5], None])
        write_study(tmp_path / "in", volumes[1:], patient="less", study="less")
        assert predict(untrained_phantom, tmp_path / "in", tmp_path / "out") == 1
        said = capsys.readouterr().err.splitlines()[-3:]
        assert said[0].startswith("error: case less_20200131 ")
        assert said[1].startswith("case gap_20200131: series 3 't2_tse' (5 file(s) in ")
        assert said[2] == "2 faulty case(s), listed above, are not in the result."
        np.testing.assert_array_equal(voxels(tmp_path / "out" / "sound_20200131.nii.gz"), voxels(by_nifti / "a.nii.gz"))
        assert [path.name for path in (tmp_path / "out" / "dicom").iterdir()] == ["sound_20200131"]
        cases = json.loads((tmp_path / "out" / "run.json").read_text())["cases"]
        assert {name: case["status"] for name, case in cases.items()} == {
            "sound_20200131": "done", "gap_20200131": "failed", "less_20200131": "failed"}

    def test_a_grid_of_its_own_is_resampled_and_told(self, volumes: list[sitk.Image], untrained_phantom: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
        write_study(tmp_path / "in", [*volumes[:3], volumes[3][1:, 2:]])
        assert predict(untrained_phantom, tmp_path / "in", tmp_path / "out") == 0
        assert "P1_20200131: FLAIR is resampled linearly, from 39 x 46 x 32 voxels" in capsys.readouterr().err
        assert sitk.ReadImage(str(tmp_path / "out" / "P1_20200131.nii.gz")).GetSize() == volumes[0].GetSize()

    def test_a_folder_that_somebody_else_wrote_is_kept(self, volumes: list[sitk.Image], untrained_phantom: Path, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
        write_study(tmp_path / "in", volumes)
        (tmp_path / "out" / "dicom" / "P1_20200131").mkdir(parents=True)
        assert predict(untrained_phantom, tmp_path / "in", tmp_path / "out") == 1
        assert "this tool did not write it there" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["dicom"]
