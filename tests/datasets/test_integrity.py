"""Integrity check: each fault is found, in one line per case, and sound datasets pass."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from skimage.io import imsave

from fuse4seg.background import results_of
from fuse4seg.datasets.dataset_json import read_dataset_json
from fuse4seg.datasets.integrity import check_dataset, find_fault, find_faults, read_sound_images
from fuse4seg.datasets.nifti import HEADER
from fuse4seg.datasets.raw import Case, training_cases
from fuse4seg.errors import DatasetJsonError, FaultyDatasetError, FaultyImageError, FolderNotFoundError

DESCRIPTION = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "tumour": 1}, "numTraining": 3,
               "file_ending": ".nii.gz"}
TURNED = (-1, 0, 0, 0, 1, 0, 0, 0, -1)
find_faults = partial(find_faults, processes=1)


def write(path: Path, voxels: np.ndarray, **geometry: tuple[float, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(voxels)
    for name, value in geometry.items():
        getattr(image, f"Set{name}")(value)
    SimpleITK.WriteImage(image, str(path))


def write_4d(path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(voxels())] * 2), str(path))


def voxels(shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def describe(folder: Path, **changes: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps(DESCRIPTION | changes))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three sound cases a, b, c with two channels."""
    folder = tmp_path / "Dataset001_Test"
    for case in "abc":
        for channel in range(2):
            write(folder / "imagesTr" / f"{case}_000{channel}.nii.gz", voxels())
        write(folder / "labelsTr" / f"{case}.nii.gz", (voxels() > 0.5).astype(np.uint8))
    describe(folder)
    return folder


def two_channels(dataset: Path) -> Case:
    return Case("b", tuple(dataset / "imagesTr" / f"b_000{channel}.nii.gz" for channel in range(2)))


def with_value(value: float) -> np.ndarray:
    changed = voxels()
    changed[1, 2, 3] = value
    return changed


FAULTS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing channel": ("imagesTr/b_0001", Path.unlink, "b_0001.nii.gz. Add it"),
    "surplus channel": ("imagesTr/b_0002", lambda path: write(path, voxels()), "beyond the dataset's channels"),
    "four dimensions": ("imagesTr/b_0000", lambda path: write_4d(path), "b_0000.nii.gz has 4 dimensions. Split it"),
    "truncated": ("imagesTr/b_0001", lambda path: path.write_bytes(path.read_bytes()[:200]), "Replace the file"),
    "no image": ("imagesTr/b_0000", lambda path: path.write_text("no image"), "Replace the file"),
    "shape": ("imagesTr/b_0001", lambda path: write(path, voxels((4, 5, 7))), "shape (4, 5, 7) instead of (4, 5, 6)"),
    "spacing": ("imagesTr/b_0001", lambda path: write(path, voxels(), Spacing=(1, 1, 2)), "spacing (2, 1, 1)"),
    "origin": ("imagesTr/b_0001", lambda path: write(path, voxels(), Origin=(0, 0, 5)), "origin (0, 0, 5)"),
    "direction": ("imagesTr/b_0001", lambda path: write(path, voxels(), Direction=TURNED), "direction"),
    "NaN": ("imagesTr/b_0001", lambda path: write(path, with_value(np.nan)), "NaN or infinite"),
    "infinite": ("imagesTr/b_0000", lambda path: write(path, with_value(np.inf)), "NaN or infinite"),
    "NaN in the label": ("labelsTr/b", lambda path: write(path, np.full((4, 5, 6), np.nan, np.float32)), "NaN or infinite"),
    "constant": ("imagesTr/b_0001", lambda path: write(path, np.full((4, 5, 6), 7.0, np.float32)), "every voxel is 7"),
    "missing label": ("labelsTr/b", Path.unlink, "b.nii.gz. Add it"),
    "unreadable label": ("labelsTr/b", lambda path: path.write_text(""), "Replace the file"),
    "shape of the label": ("labelsTr/b", lambda path: write(path, np.zeros((4, 5, 7), np.uint8)), "shape"),
    "spacing of the label": ("labelsTr/b", lambda path: write(path, voxels(), Spacing=(2, 1, 1)), "spacing (1, 1, 2)"),
    "unknown value": ("labelsTr/b", lambda path: write(path, np.full((4, 5, 6), 2, np.uint8)), "value 2,"),
    "fraction": ("labelsTr/b", lambda path: write(path, np.full((4, 5, 6), 0.5, np.float32)), "value 0.5,"),
}


class TestCasesThatMayLackChannels:
    """Where dataset.json allows for it, or the caller."""

    def test_are_sound_where_one_channel_is_there(self, dataset: Path) -> None:
        for name in ("a_0000", "b_0001"):
            (dataset / "imagesTr" / f"{name}.nii.gz").unlink()
        assert len(find_faults(dataset)) == 2
        assert find_faults(dataset, allow_missing=True) == []
        describe(dataset, missing_modalities=True)
        assert find_faults(dataset) == []

    @pytest.mark.parametrize("fault", ["constant", "shape of the label", "unknown value", "missing label", "surplus channel"])
    def test_are_faulty_by_what_is_there(self, dataset: Path, fault: str) -> None:
        (dataset / "imagesTr" / "b_0000.nii.gz").unlink()
        stem, damage, said = FAULTS[fault]
        damage(dataset / f"{stem}.nii.gz")
        (line,) = find_faults(dataset, allow_missing=True)
        assert said in line

    def test_are_not_taken_to_lack_what_is_all_zeros(self, dataset: Path) -> None:
        write(dataset / "imagesTr" / "b_0001.nii.gz", np.zeros((4, 5, 6), np.float32))
        (line,) = find_faults(dataset, allow_missing=True)
        assert "b_0001.nii.gz is constant, every voxel is 0" in line

    def test_have_every_channel_among_them(self, dataset: Path) -> None:
        for case in "abc":
            (dataset / "imagesTr" / f"{case}_0001.nii.gz").unlink()
        with pytest.raises(DatasetJsonError, match="channel_names gives FLAIR, of which no training case has an image"):
            find_faults(dataset, allow_missing=True)


class TestFindFaults:
    def test_finds_none_in_a_sound_dataset(self, dataset: Path) -> None:
        assert find_faults(dataset) == []

    @pytest.mark.parametrize("fault", FAULTS)
    def test_tells_each_fault_in_one_line_with_file_and_mend(self, dataset: Path, fault: str) -> None:
        stem, damage, said = FAULTS[fault]
        damage(dataset / f"{stem}.nii.gz")
        (line,) = find_faults(dataset)
        assert line.startswith("case b")
        assert str(dataset / f"{stem}.nii.gz") in line
        assert said in line
        assert "\n" not in line

    def test_refuses_a_name_that_nnunet_takes_for_a_label(self, dataset: Path) -> None:
        """Preprocessed, b_seg would lie where the label of b lies; and without b, it would be in no fold."""
        for kind, channel in (("imagesTr", "_0000"), ("imagesTr", "_0001"), ("labelsTr", "")):
            (dataset / kind / f"c{channel}.nii.gz").rename(dataset / kind / f"b_seg{channel}.nii.gz")
        (line,) = find_faults(dataset)
        assert line.startswith("case b_seg: nnU-Net takes names that end in _seg for labels")
        with pytest.raises(FaultyImageError, match="case b_seg"):
            training_cases(dataset, read_dataset_json(dataset))

    def test_takes_the_spacing_of_tiff_from_beside_images_and_labels(self, tmp_path: Path) -> None:
        for name in ("imagesTr/a_0000", "imagesTr/a_0001", "labelsTr/a"):
            write(tmp_path / f"{name}.tif", np.uint8(voxels((5, 5, 6)) * (1 if name == "labelsTr/a" else 255)))
            (tmp_path / name).with_name("a.json").write_text('{"spacing": [3, 0.5, 0.5]}')
        describe(tmp_path, numTraining=1, file_ending=".tif")
        assert find_faults(tmp_path) == []
        (tmp_path / "labelsTr" / "a.json").unlink()
        (line,) = find_faults(tmp_path)
        assert "a.tif has spacing (1, 1, 1) instead of (3, 0.5, 0.5)" in line

    def test_examines_all_cases_and_tells_all_that_is_wrong_with_one(self, dataset: Path) -> None:
        (dataset / "imagesTr" / "a_0000.nii.gz").unlink()
        write(dataset / "imagesTr" / "c_0000.nii.gz", with_value(np.nan))
        write(dataset / "labelsTr" / "c.nii.gz", np.full((4, 5, 6), 9, np.uint8))
        first, second = find_faults(dataset)
        assert first.startswith("case a")
        assert "NaN" in second
        assert "value 9" in second

    def test_accepts_a_label_without_foreground(self, dataset: Path) -> None:
        write(dataset / "labelsTr" / "b.nii.gz", np.zeros((4, 5, 6), np.uint8))
        assert find_faults(dataset) == []

    def test_asks_for_no_labels_where_there_is_no_folder_of_them(self, dataset: Path) -> None:
        shutil.rmtree(dataset / "labelsTr")
        assert find_faults(dataset) == []
        write(dataset / "imagesTr" / "b_0001.nii.gz", voxels((4, 5, 7)))
        (line,) = find_faults(dataset)
        assert line.startswith("case b")

    def test_knows_the_values_of_regions_and_the_ignore_label(self, dataset: Path) -> None:
        labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
        describe(dataset, labels=labels, regions_class_order=[1, 2])
        write(dataset / "labelsTr" / "b.nii.gz", np.arange(120, dtype=np.uint8).reshape(4, 5, 6) % 4)
        assert find_faults(dataset) == []

    def test_shortens_a_long_list_of_values(self, dataset: Path) -> None:
        write(dataset / "labelsTr" / "b.nii.gz", np.arange(120, dtype=np.uint8).reshape(4, 5, 6))
        assert "value 2, 3, 4, 5, 6, ..., which" in find_faults(dataset)[0]

    def test_tells_files_that_only_nnunet_takes_for_cases(self, dataset: Path) -> None:
        write(dataset / "imagesTr" / "stray.nii.gz", voxels())
        (line,) = find_faults(dataset)
        assert "stray.nii.gz is not named CASE_0000.nii.gz" in line

    def test_refuses_a_wrong_number_of_cases(self, dataset: Path) -> None:
        describe(dataset, numTraining=4)
        with pytest.raises(DatasetJsonError, match="numTraining is 4, but there are 3"):
            find_faults(dataset)

    def test_refuses_a_dataset_without_images(self, tmp_path: Path) -> None:
        describe(tmp_path)
        (tmp_path / "labelsTr").mkdir()
        with pytest.raises(FolderNotFoundError, match="imagesTr"):
            find_faults(tmp_path)

    def test_reads_pictures_too(self, tmp_path: Path) -> None:
        for kind, names in {"imagesTr": ["a_0000", "a_0001"], "labelsTr": ["a"]}.items():
            (tmp_path / kind).mkdir()
            for name in names:
                imsave(tmp_path / kind / f"{name}.png", np.eye(6, dtype=np.uint8), check_contrast=False)
        describe(tmp_path, file_ending=".png", numTraining=1)
        assert find_faults(tmp_path) == []
        imsave(tmp_path / "imagesTr" / "a_0001.png", np.eye(7, dtype=np.uint8), check_contrast=False)
        assert "shape (1, 7, 7) instead of (1, 6, 6)" in find_faults(tmp_path)[0]

    def test_follows_explicit_lists(self, dataset: Path) -> None:
        images = ["imagesTr/a_0000.nii.gz", "imagesTr/b_0001.nii.gz"]
        describe(dataset, dataset={"p": {"images": images, "label": "labelsTr/absent.nii.gz"}}, numTraining=1)
        (line,) = find_faults(dataset)
        assert "absent.nii.gz. Add it" in line

    def test_writes_nothing_to_stdout(self, dataset: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write(dataset / "imagesTr" / "b_0001.nii.gz", voxels((4, 5, 7)))
        find_faults(dataset)
        assert capfd.readouterr().out == ""

    def test_finds_the_same_with_several_processes(self, dataset: Path) -> None:
        (dataset / "imagesTr" / "a_0000.nii.gz").unlink()
        write(dataset / "imagesTr" / "c_0000.nii.gz", with_value(np.nan))
        assert find_faults(dataset, processes=2) == find_faults(dataset)


    @pytest.mark.parametrize("processes", [1, 2])
    def test_any_error_of_a_case_is_its_fault(self, dataset: Path, processes: int) -> None:
        sound, broken = (Case("a", two_channels(dataset).images, label) for label in (None, dataset / "labelsTr" / "b.nii.gz"))
        examine = partial(find_fault, channels=["T1", "FLAIR"], allowed=None, reader=SimpleITKIO)
        first, second, third = results_of(examine, [sound, broken, sound], processes=processes, doing="checking")
        assert (first, third) == (None, None)
        assert second.startswith("case a: it cannot be used (TypeError: ")

    def test_names_the_range_of_16_bits_in_a_channel_of_8(self, tmp_path: Path) -> None:
        for case in "ab":
            for name, kind in ((f"imagesTr/{case}_0000", np.uint16 if case == "b" else np.uint8), (f"labelsTr/{case}", np.uint8)):
                (tmp_path / name).parent.mkdir(exist_ok=True)
                imsave(tmp_path / f"{name}.png", np.eye(6, dtype=kind) * (900 if kind == np.uint16 else 1), check_contrast=False)
        described = {"file_ending": ".png", "numTraining": 2, "channel_names": {"0": "MRI"}}
        describe(tmp_path, **described)
        assert find_faults(tmp_path) == []
        describe(tmp_path, **described, normalization={"0": "rgb_to_0_1"})
        (line,) = find_faults(tmp_path)
        assert f"{tmp_path / 'imagesTr' / 'b_0000.png'} holds intensities from 0 to 900, and its channel takes 0 to 255" in line


class TestReadSoundImages:
    def test_reads_what_nnunet_reads(self, dataset: Path) -> None:
        case = two_channels(dataset)
        voxels, properties = read_sound_images(case, SimpleITKIO)
        expected, wanted = SimpleITKIO().read_images([str(path) for path in case.images])
        np.testing.assert_array_equal(voxels, expected)
        assert voxels.dtype == expected.dtype
        assert {name: value for name, value in properties.items() if name != HEADER} == wanted

    @pytest.mark.parametrize("fault", ["truncated", "shape", "origin", "NaN", "constant"])
    def test_names_what_is_wrong(self, dataset: Path, fault: str) -> None:
        stem, damage, said = FAULTS[fault]
        damage(dataset / f"{stem}.nii.gz")
        with pytest.raises(FaultyImageError, match=f"case b: .*{re.escape(said)}"):
            read_sound_images(two_channels(dataset), SimpleITKIO)


class TestCheckDataset:
    def test_passes_a_sound_dataset(self, dataset: Path) -> None:
        check_dataset(dataset, processes=1)

    def test_lists_the_faulty_cases_and_how_many(self, dataset: Path) -> None:
        (dataset / "labelsTr" / "a.nii.gz").unlink()
        (dataset / "imagesTr" / "b_0000.nii.gz").unlink()
        with pytest.raises(FaultyDatasetError) as caught:
            check_dataset(dataset, processes=1)
        *faults, summary = str(caught.value).splitlines()
        assert [line[:6] for line in faults] == ["case a", "case b"]
        assert summary.startswith("Dataset001_Test: 2 faulty case(s)")
