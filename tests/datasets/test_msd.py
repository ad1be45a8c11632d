"""Decathlon tasks: 4D images split, 3D ones linked, labels named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.datasets.msd import convert_msd
from fuse4seg.errors import DatasetJsonError, DuplicateCaseError, Fuse4SegError

TASK = {"name": "BRATS", "modality": {"0": "FLAIR", "1": "T1w"}, "labels": {"0": "background", "1": "edema", "2": "tumour"},
        "training": [{"image": "./imagesTr/B_1.nii.gz", "label": "./labelsTr/B_1.nii.gz"}], "test": ["./imagesTs/B_2.nii.gz"]}


def write_task(folder: Path, channels: int = 2, **changes: Any) -> Path:
    random = np.random.default_rng(0)
    for place, name, kind in (("imagesTr", "B_1", "image"), ("labelsTr", "B_1", "label"), ("imagesTs", "B_2", "image")):
        (folder / place).mkdir(parents=True, exist_ok=True)
        volumes = [sitk.GetImageFromArray(random.integers(0, 3, (3, 4, 5)).astype(np.uint8)) for _ in range(channels)]
        for volume in volumes:
            volume.SetSpacing((1, 2, 3))
            volume.SetOrigin((4, 5, 6))
        image = volumes[0] if kind == "label" or channels == 1 else sitk.JoinSeries(volumes)
        sitk.WriteImage(image, str(folder / place / f"{name}.nii.gz"))
    (folder / "dataset.json").write_text(json.dumps(TASK | changes))
    return folder


def test_channels_of_4d_images_become_files_in_their_place(tmp_path: Path, raw: Path) -> None:
    source = write_task(tmp_path / "Task01")
    convert_msd(source, 7)
    folder = raw / "Dataset007_BRATS"
    whole = sitk.GetArrayFromImage(sitk.ReadImage(str(source / "imagesTr" / "B_1.nii.gz")))
    for number in range(2):
        part = sitk.ReadImage(str(folder / "imagesTr" / f"B_1_{number:04d}.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(part), whole[number])
        assert part.GetSpacing() == (1, 2, 3)
        assert part.GetOrigin() == (4, 5, 6)
    assert (folder / "imagesTs" / "B_2_0001.nii.gz").is_file()
    assert (folder / "labelsTr" / "B_1.nii.gz").readlink() == source / "labelsTr" / "B_1.nii.gz"
    described = json.loads((folder / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "FLAIR", "1": "T1w"}
    assert described["labels"] == {"background": 0, "edema": 1, "tumour": 2}


def test_4d_images_with_rounded_directions_are_split_in_their_place(
        tmp_path: Path, raw: Path, shear: Callable[..., np.ndarray]) -> None:
    source = write_task(tmp_path / "Task01")
    sheared = shear(source, (1, 2, 3))
    convert_msd(source, 7)
    whole = np.asanyarray(nibabel.load(source / "imagesTr" / "B_1.nii.gz").dataobj)
    for number in range(2):
        part = nibabel.load(raw / "Dataset007_BRATS" / "imagesTr" / f"B_1_{number:04d}.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(part.dataobj), whole[..., number])
        np.testing.assert_allclose(part.get_sform(), sheared, atol=1e-6)


def test_3d_images_are_linked(tmp_path: Path, raw: Path) -> None:
    convert_msd(write_task(tmp_path / "Task03", 1, modality={"0": "CT"}), 7, name="Liver")
    assert (raw / "Dataset007_Liver" / "imagesTr" / "B_1_0000.nii.gz").is_symlink()


@pytest.mark.parametrize(("changes", "said"), [
    ({"modality": {"0": "CT"}}, "holds 2 channels, dataset.json names 1"),
    ({"modality": None}, "lacks modality, labels or training"),
    ({"training": []}, "names no training cases"),
    ({"training": [{"image": "imagesTr/none.nii.gz", "label": "labelsTr/B_1.nii.gz"}]}, "none.nii.gz cannot be read"),
    ({"training": [{"image": "imagesTr/B_1.nii.gz", "label": "labelsTr/none.nii.gz"}]}, "none.nii.gz cannot be read"),
    ({"labels": {"0": "background", "1": "edema"}}, "holds the value 2"),
    ({"labels": {"0": "background", "1": "edema", "4": "tumour"}}, "without a gap"),
])
def test_what_cannot_be_used_is_told_and_nothing_is_written(tmp_path: Path, raw: Path, changes: dict[str, Any],
                                                            said: str) -> None:
    with pytest.raises(Fuse4SegError, match=said):
        convert_msd(write_task(tmp_path / "Task01", **changes), 7)
    assert not raw.exists() or not list(raw.iterdir())


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def with_a_hole(path: Path) -> None:
    voxels = np.random.default_rng(1).random((5, 4, 3, 2)).astype(np.float32)
    voxels[1, 2, 1, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)


@pytest.mark.parametrize(("damage", "said"), [(cut_off, "truncated"), (with_a_hole, "NaN")])
def test_4d_images_that_itk_would_fill_with_0_are_refused(tmp_path: Path, raw: Path, damage: Callable[[Path], None],
                                                          said: str) -> None:
    source = write_task(tmp_path / "Task01")
    damage(source / "imagesTr" / "B_1.nii.gz")
    with pytest.raises(Fuse4SegError, match=rf"B_1\.nii\.gz.*{said}"):
        convert_msd(source, 7)
    assert not list(raw.iterdir())


@pytest.mark.parametrize("channels", [1, 2])
def test_a_case_that_is_named_twice_is_refused_and_its_files_stay(tmp_path: Path, raw: Path, channels: int) -> None:
    source = write_task(tmp_path / "Task01", channels, modality={str(number): f"M{number}" for number in range(channels)},
                        training=TASK["training"] * 2)
    before = (source / "imagesTr" / "B_1.nii.gz").read_bytes()
    with pytest.raises(DuplicateCaseError, match=r"B_1.*is there twice.*Rename one"):
        convert_msd(source, 7)
    assert (source / "imagesTr" / "B_1.nii.gz").read_bytes() == before
    assert not list(raw.iterdir())


def test_a_folder_that_is_no_task_is_refused(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(DatasetJsonError, match="is missing. Give the folder of a Decathlon task"):
        convert_msd(tmp_path, 7)


def test_two_labels_of_one_name_are_refused(tmp_path: Path, raw: Path) -> None:
    source = write_task(tmp_path / "Task01", labels={"0": "background", "1": "edema", "2": "edema"})
    with pytest.raises(DatasetJsonError, match="two labels one name"):
        convert_msd(source, 7)
    assert not raw.exists()
