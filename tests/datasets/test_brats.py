"""BraTS folders: every release's names, and cases that lack a modality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fuse4seg.datasets.brats import enhancing_is_three, find_brats_cases
from fuse4seg.errors import EmptyFolderError, FaultyCasesError, FolderNotFoundError

RELEASES = {
    "2018": ("HGG/Brats18_2013_10_1/Brats18_2013_10_1_{}.nii.gz", ("t1", "t1ce", "t2", "flair", "seg"), "Brats18_2013_10_1"),
    "2020": ("BraTS20_Training_001/BraTS20_Training_001_{}.nii", ("t1", "t1ce", "t2", "flair", "seg"), "BraTS20_Training_001"),
    "2021": ("BraTS2021_00000/BraTS2021_00000_{}.nii.gz", ("t1", "t1ce", "t2", "flair", "seg"), "BraTS2021_00000"),
    "2023": ("BraTS-GLI-00000-000/BraTS-GLI-00000-000-{}.nii.gz", ("t1n", "t1c", "t2w", "t2f", "seg"), "BraTS-GLI-00000-000"),
    "2024": ("BraTS-MET-00001-000/BraTS-MET-00001-000-{}.nii.gz", ("t1n", "t1c", "t2w", "t2f", "seg"), "BraTS-MET-00001-000"),
}


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("release", RELEASES)
def test_finds_the_files_of_every_release(tmp_path: Path, release: str) -> None:
    pattern, kinds, name = RELEASES[release]
    paths = [touch(tmp_path / pattern.format(kind)) for kind in kinds]
    (case,) = find_brats_cases(tmp_path)
    assert (case.name, case.images, case.label) == (name, tuple(paths[:4]), paths[4])


def test_finds_cases_in_nnunets_layout_with_and_without_labels(tmp_path: Path) -> None:
    images = [touch(tmp_path / "imagesTr" / f"{case}_000{number}.nii.gz") for case in ("a_t2", "b") for number in range(4)]
    label = touch(tmp_path / "labelsTr" / "a_t2.nii.gz")
    first, second = find_brats_cases(tmp_path)
    assert (first.name, first.images, first.label) == ("a_t2", tuple(images[:4]), label)
    assert (second.name, second.label) == ("b", None)


def test_names_every_case_that_lacks_a_modality(tmp_path: Path) -> None:
    for case, kinds in (("a", ("t1", "t2", "flair")), ("b", ("t1", "t1ce", "t2", "flair")), ("c", ("t1", "t1ce", "t2"))):
        for kind in kinds:
            touch(tmp_path / case / f"{case}_{kind}.nii.gz")
    with pytest.raises(FaultyCasesError) as caught:
        find_brats_cases(tmp_path)
    lines = str(caught.value).splitlines()
    assert "case a has no T1ce image" in lines[0]
    assert "case c has no FLAIR image" in lines[1]


def test_folders_without_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderNotFoundError):
        find_brats_cases(tmp_path / "nowhere")
    touch(tmp_path / "labels" / "a.nii.gz")
    with pytest.raises(EmptyFolderError, match="BraTS release"):
        find_brats_cases(tmp_path)


def test_enhancing_tumour_becomes_three_unless_there_is_a_three() -> None:
    np.testing.assert_array_equal(enhancing_is_three(np.array([0, 1, 2, 4], np.uint8)), [0, 1, 2, 3])
    np.testing.assert_array_equal(enhancing_is_three(np.array([0, 3, 4], np.uint8)), [0, 3, 4])
