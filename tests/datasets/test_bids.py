"""BIDS datasets as cases: by suffix and entities, on one grid."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.datasets.bids import bids_cases, is_bids, write_bids_case
from fuse4seg.errors import (
    AmbiguousImagesError,
    EmptyFolderError,
    MissingModalityError,
    OptionError,
    UnreadableImageError,
    UnsuitableImageError,
)

CHANNELS = ("T1", "T1ce", "T2", "FLAIR")
SUFFIXES = ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR")


def write(path: Path, *, size: tuple[int, int, int] = (4, 5, 6), value: int = 1, turned: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.Image(*size, sitk.sitkFloat32) + value
    image.SetSpacing((1.0, 2.0, 3.0))
    if turned:
        image.SetOrigin((5.0, 0.0, 0.0))
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """sub-01 in two sessions, sub-02 in none; all complete."""
    root = tmp_path / "bids"
    for place, stem in (("sub-01/ses-a", "sub-01_ses-a"), ("sub-01/ses-b", "sub-01_ses-b"), ("sub-02", "sub-02")):
        for number, suffix in enumerate(SUFFIXES):
            write(root / place / "anat" / f"{stem}_{suffix}.nii.gz", value=number + 1)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    return root


class TestCases:
    def test_are_sessions_and_subjects_without(self, root: Path) -> None:
        cases, faults = bids_cases(root, CHANNELS)
        assert list(cases) == ["sub-01_ses-a", "sub-01_ses-b", "sub-02"]
        assert faults == {}
        assert [image.path.name for image in cases["sub-01_ses-b"].images] == [
            f"sub-01_ses-b_{suffix}.nii.gz" for suffix in SUFFIXES]

    def test_take_what_channels_ask_for_in_their_order(self, root: Path) -> None:
        cases, _ = bids_cases(root, ["flair", "t1gd"], reference=1)
        assert [image.path.name for image in cases["sub-02"].images] == ["sub-02_FLAIR.nii.gz",
                                                                         "sub-02_ce-gadolinium_T1w.nii.gz"]
        assert cases["sub-02"].reference == 1

    def test_pass_over_derivatives_phases_masks_and_other_folders(self, root: Path) -> None:
        for name in ("derivatives/x/sub-02/anat/sub-02_T1w", "sourcedata/sub-09/anat/sub-09_T1w", "sub-02/func/sub-02_bold",
                     "sub-02/anat/sub-02_part-phase_T1w", "sub-02/anat/sub-02_mod-T1w_defacemask", "sub-02/anat/notes"):
            write(root / f"{name}.nii.gz")
        (root / "sub-02" / "anat" / "sub-02_T1w.json").write_text("{}")
        cases, faults = bids_cases(root, CHANNELS)
        assert len(cases) == 3
        assert faults == {}

    def test_several_runs_are_listed(self, root: Path) -> None:
        write(root / "sub-02" / "anat" / "sub-02_run-2_T1w.nii.gz")
        cases, faults = bids_cases(root, CHANNELS)
        assert list(cases) == ["sub-01_ses-a", "sub-01_ses-b"]
        assert isinstance(faults["sub-02"], AmbiguousImagesError)
        assert "T1 could be sub-02_T1w.nii.gz or sub-02_run-2_T1w.nii.gz. Leave one" in str(faults["sub-02"])

    def test_that_lack_something_are_taken_where_that_is_allowed(self, root: Path) -> None:
        (root / "sub-02" / "anat" / "sub-02_T1w.nii.gz").unlink()
        cases, faults = bids_cases(root, CHANNELS)
        assert isinstance(faults["sub-02"], MissingModalityError)
        assert "sub-02 has no T1 image" in str(faults["sub-02"])
        cases, faults = bids_cases(root, CHANNELS, allow_missing=True)
        assert faults == {}
        assert (cases["sub-02"].images[0], cases["sub-02"].reference) == (None, 1)

    def test_that_have_nothing_are_none(self, root: Path) -> None:
        (root / "sub-03").mkdir()
        assert list(bids_cases(root, CHANNELS, allow_missing=True)[1]) == ["sub-03"]

    def test_of_channels_without_a_suffix_are_refused(self, root: Path) -> None:
        with pytest.raises(OptionError, match="not the model's channel CT"):
            bids_cases(root, ["T1", "CT"])

    def test_of_a_dataset_without_images_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "sub-01" / "anat").mkdir(parents=True)
        with pytest.raises(EmptyFolderError, match="sub-LABEL/anat"):
            bids_cases(tmp_path, CHANNELS)


def test_a_dataset_is_told_by_its_description_and_subjects(root: Path, tmp_path: Path) -> None:
    assert is_bids(root)
    assert not is_bids(root / "sub-01")
    (root / "dataset_description.json").unlink()
    assert not is_bids(root)


class TestFiles:
    def test_on_one_grid_are_linked_as_they_are(self, root: Path, tmp_path: Path) -> None:
        write_bids_case(bids_cases(root, CHANNELS)[0]["sub-02"], CHANNELS, tmp_path, ".nii.gz")
        for number, suffix in enumerate(SUFFIXES):
            assert (tmp_path / f"sub-02_{number:04d}.nii.gz").resolve() == root / "sub-02" / "anat" / f"sub-02_{suffix}.nii.gz"

    def test_on_other_grids_are_resampled_to_the_references(self, root: Path, tmp_path: Path,
                                                            caplog: pytest.LogCaptureFixture) -> None:
        write(root / "sub-02" / "anat" / "sub-02_T2w.nii.gz", size=(9, 5, 6), value=7, turned=True)
        write_bids_case(bids_cases(root, CHANNELS)[0]["sub-02"], CHANNELS, tmp_path, ".nii.gz")
        assert "sub-02: T2 is resampled linearly" in caplog.text
        found = nibabel.load(tmp_path / "sub-02_0002.nii.gz")
        np.testing.assert_allclose(found.affine, nibabel.load(root / "sub-02" / "anat" / "sub-02_T1w.nii.gz").affine)
        # The first voxel of T2 lies at x = 5, that is beyond the reference's last, at x = 3.
        assert not np.asarray(found.dataobj).any()

    def test_of_another_ending_are_written_anew(self, root: Path, tmp_path: Path) -> None:
        write_bids_case(bids_cases(root, CHANNELS)[0]["sub-02"], CHANNELS, tmp_path, ".nii")
        found = tmp_path / "sub-02_0003.nii"
        assert not found.is_symlink()
        np.testing.assert_array_equal(np.asarray(nibabel.load(found).dataobj), np.full((4, 5, 6), 4.0))

    def test_that_are_damaged_or_no_volumes_are_named(self, root: Path, tmp_path: Path) -> None:
        case = bids_cases(root, CHANNELS)[0]["sub-02"]
        image = case.images[1].path
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 2), np.float32), np.eye(4)), image)
        with pytest.raises(UnsuitableImageError, match="has 4 dimensions"):
            write_bids_case(case, CHANNELS, tmp_path, ".nii.gz")
        image.write_bytes(image.read_bytes()[:-20])
        (tmp_path / "again").mkdir()
        with pytest.raises(UnreadableImageError, match=image.name):
            write_bids_case(case, CHANNELS, tmp_path / "again", ".nii.gz")
