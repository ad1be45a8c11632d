"""BraTS: every release's names, cases that lack a modality, and all as a raw dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.datasets.brats import CONVENTIONS, BratsCase, convert_brats, find_brats_cases, find_release, with_three
from fuse4seg.errors import EmptyFolderError, FaultyCasesError, FaultyDatasetError, FolderNotFoundError, OptionError

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


class TestFindBratsCases:
    @pytest.mark.parametrize("release", RELEASES)
    def test_finds_the_files_of_every_release(self, tmp_path: Path, release: str) -> None:
        pattern, kinds, name = RELEASES[release]
        paths = [touch(tmp_path / pattern.format(kind)) for kind in kinds]
        (case,) = find_brats_cases(tmp_path)
        assert (case.name, case.images, case.label) == (name, tuple(paths[:4]), paths[4])

    def test_finds_cases_in_nnunets_layout_with_and_without_labels(self, tmp_path: Path) -> None:
        images = [touch(tmp_path / "imagesTr" / f"{case}_000{number}.nii.gz") for case in ("a_t2", "b") for number in range(4)]
        label = touch(tmp_path / "labelsTr" / "a_t2.nii.gz")
        first, second = find_brats_cases(tmp_path)
        assert (first.name, first.images, first.label) == ("a_t2", tuple(images[:4]), label)
        assert (second.name, second.label) == ("b", None)

    def test_names_every_case_that_lacks_a_modality(self, tmp_path: Path) -> None:
        for case, kinds in (("a", ("t1", "t2", "flair")), ("b", ("t1", "t1ce", "t2", "flair")), ("c", ("t1", "t1ce", "t2"))):
            for kind in kinds:
                touch(tmp_path / case / f"{case}_{kind}.nii.gz")
        with pytest.raises(FaultyCasesError) as caught:
            find_brats_cases(tmp_path)
        lines = str(caught.value).splitlines()
        assert "case a has no T1ce image" in lines[0]
        assert "case c has no FLAIR image" in lines[1]
        assert lines[2] == "2 faulty case(s), listed above: nothing was written."

    def test_folders_without_cases_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FolderNotFoundError):
            find_brats_cases(tmp_path / "nowhere")
        touch(tmp_path / "labels" / "a.nii.gz")
        with pytest.raises(EmptyFolderError, match="BraTS release"):
            find_brats_cases(tmp_path)


class TestFindRelease:
    @pytest.mark.parametrize(("release", "expected"), [("2018", [0, 1, 2, 3]), ("2024-GLI", [0, 1, 2, 4]),
                                                       ("2024-PED", [0, 1, 2, 4]), ("2023", [0, 1, 2, 4])])
    def test_enhancing_tumour_becomes_three_by_release(self, release: str, expected: list[int]) -> None:
        np.testing.assert_array_equal(with_three(np.array([0, 1, 2, 4], np.uint8), release), expected)

    @pytest.mark.parametrize(("file", "values", "release"), [
        ("a_t1ce.nii.gz", {0, 1, 2, 4}, "2018"), ("a_t1ce.nii.gz", {0, 1, 2, 3}, "2023"), ("a_0001.nii.gz", {0, 1, 2, 3}, "2023"),
        ("a_t1ce.nii", {0}, "2023"), ("BraTS-GLI-1-t1c.nii.gz", {0, 4}, "2024-GLI"),
        ("BraTS-PED-1-t1c.nii.gz", {0, 4}, "2024-PED")])
    def test_is_told_by_names_and_values_of_all_cases(self, file: str, values: set[int], release: str) -> None:
        case = BratsCase(file.partition("_")[0], (Path(file),) * 4)
        assert find_release([case], values) == release

    @pytest.mark.parametrize(("file", "values"), [("a_0001.nii.gz", {0, 1, 2, 4}), ("a_t1ce.nii.gz", {0, 3, 4}),
                                                  ("BraTS-PED-1-t1c.nii.gz", {0, 1})])
    def test_is_told_by_what_the_conversion_wrote_where_names_do_not(self, tmp_path: Path, file: str, values: set[int]) -> None:
        case = BratsCase(file.partition("_")[0], (tmp_path / "imagesTr" / file,) * 4)
        with pytest.raises(OptionError, match=r"--release: .*f4s_convert_dataset brats one of 2018, 2023, 2024-GLI, 2024-PED"):
            find_release([case], values)
        described = {"channel_names": {"0": "T1"}, "labels": CONVENTIONS["2024-PED"], "numTraining": 1, "file_ending": ".nii.gz"}
        (tmp_path / "dataset.json").write_text(json.dumps(described))
        assert find_release([case], values) == "2024-PED"


Make, Shear = Callable[..., Path], Callable[..., np.ndarray]
SHAPE = (3, 4, 5)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Function that writes a case of 2021 with some label values, or without labels."""
    random = np.random.default_rng(0)

    def write(case: str, values: list[int] | None, ending: str = ".nii.gz") -> Path:
        folder = tmp_path / "in" / case
        folder.mkdir(parents=True)
        for kind in ("t1", "t1ce", "t2", "flair"):
            image = sitk.GetImageFromArray(random.integers(0, 99, SHAPE).astype(np.int16))
            sitk.WriteImage(image, str(folder / f"{case}_{kind}{ending}"))
        if values is not None:
            label = np.zeros(SHAPE, np.uint8)
            label.flat[:len(values)] = values
            sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / f"{case}_seg{ending}"))
        return tmp_path / "in"

    return write


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


class TestConvertBrats:
    def test_images_are_linked_in_the_order_of_the_channels(self, make: Make, raw: Path) -> None:
        convert_brats(make("a", [1, 2, 4]), 7)
        folder = raw / "Dataset007_BraTS"
        kinds = ("t1", "t1ce", "t2", "flair")
        linked = [(folder / "imagesTr" / f"a_{number:04d}.nii.gz").readlink().name for number in range(4)]
        assert linked == [f"a_{kind}.nii.gz" for kind in kinds]
        described = json.loads((folder / "dataset.json").read_text())
        assert list(described["channel_names"].values()) == ["T1", "T1ce", "T2", "FLAIR"]

    def test_label_4_becomes_3_and_labels_without_it_are_linked(self, make: Make, raw: Path) -> None:
        make("a", [1, 2, 4])
        convert_brats(make("b", [1, 2]), 7)
        labels = raw / "Dataset007_BraTS" / "labelsTr"
        np.testing.assert_array_equal(read(labels / "a.nii.gz").flat[:4], [1, 2, 3, 0])
        assert not (labels / "a.nii.gz").is_symlink()
        assert (labels / "b.nii.gz").is_symlink()

    def test_the_4_of_treated_gliomas_is_the_resection_cavity_though_no_case_has_3_and_4(self, make: Make, raw: Path) -> None:
        make("BraTS-GLI-00001-100", [1, 2, 3])
        convert_brats(make("BraTS-GLI-00002-100", [1, 2, 4]), 7)
        labels = raw / "Dataset007_BraTS" / "labelsTr"
        assert read(labels / "BraTS-GLI-00002-100.nii.gz").max() == 4
        described = json.loads((raw / "Dataset007_BraTS" / "dataset.json").read_text())
        assert described["labels"]["resection cavity"] == 4

    @pytest.mark.parametrize(("name", "values"), [("BraTS-PED-00001-000", [1, 2, 3]), ("a", [1, 2, 3, 4])])
    def test_where_files_do_not_tell_the_release_the_option_is_named(self, make: Make, raw: Path, name: str,
                                                                     values: list[int]) -> None:
        source = make(name, values)
        with pytest.raises(OptionError, match="--release: .* 2024-PED"):
            convert_brats(source, 7)
        assert not list(raw.iterdir())
        convert_brats(source, 7, release="2024-PED")
        described = json.loads((raw / "Dataset007_BraTS" / "dataset.json").read_text())
        assert described["labels"]["enhancing tumour"] == 1

    def test_labels_with_rounded_directions_are_converted_in_their_place(self, make: Make, raw: Path, shear: Shear) -> None:
        source = make("a", [1, 2, 4])
        sheared = shear(source, (1, 1, 1))
        convert_brats(source, 7)
        made = nibabel.load(raw / "Dataset007_BraTS" / "labelsTr" / "a.nii.gz")
        assert sorted(np.unique(np.asanyarray(made.dataobj))) == [0, 1, 2, 3]
        np.testing.assert_allclose(made.get_sform(), sheared, atol=1e-6)
        assert int(made.header["qform_code"]) == 0

    def test_a_release_that_is_none_is_refused(self, make: Make, raw: Path) -> None:
        with pytest.raises(OptionError, match="2022 is none of 2018"):
            convert_brats(make("a", [1]), 7, release="2022")

    def test_cases_without_labels_are_test_cases(self, make: Make, raw: Path) -> None:
        make("a", [1, 2, 3])
        convert_brats(make("b", None), 7)
        folder = raw / "Dataset007_BraTS"
        assert {path.name[0] for path in (folder / "imagesTs").iterdir()} == {"b"}
        assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 1

    def test_a_release_without_labels_becomes_a_dataset_without_labels(self, make: Make, raw: Path) -> None:
        convert_brats(make("a", None), 7)
        folder = raw / "Dataset007_BraTS"
        assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0}
        assert len(list((folder / "imagesTr").iterdir())) == 4
        assert not (folder / "labelsTr").exists()

    def test_plain_files_stay_plain_unless_endings_are_mixed(self, make: Make, raw: Path) -> None:
        convert_brats(make("a", [1, 2, 3], ".nii"), 7)
        assert (raw / "Dataset007_BraTS" / "imagesTr" / "a_0000.nii").is_symlink()
        convert_brats(make("b", [1, 2, 3]), 8)
        packed = raw / "Dataset008_BraTS" / "imagesTr" / "a_0000.nii.gz"
        assert not packed.is_symlink()
        np.testing.assert_array_equal(read(packed), read(raw / "Dataset007_BraTS" / "imagesTr" / "a_0000.nii"))

    def test_the_case_of_2020_with_a_name_of_its_own_has_a_label(self, make: Make, raw: Path) -> None:
        source = make("a", [1, 2, 4])
        (source / "a" / "a_seg.nii.gz").rename(source / "a" / "W39_1998.09.19_Segm.nii.gz")
        convert_brats(source, 7)
        assert (raw / "Dataset007_BraTS" / "labelsTr" / "a.nii.gz").is_file()

    def test_other_label_values_are_refused_and_nothing_is_written(self, make: Make, raw: Path) -> None:
        with pytest.raises(FaultyDatasetError, match="case a: .* holds the value 7"):
            convert_brats(make("a", [1, 7]), 7)
        assert not list(raw.iterdir())
