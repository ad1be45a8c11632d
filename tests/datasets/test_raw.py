"""Raw datasets: cases are found by their files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from fuse4seg.datasets.dataset_json import (
    read_dataset_json,
)
from fuse4seg.datasets.raw import examples, holds_cases, list_cases, training_cases
from fuse4seg.errors import (
    DatasetJsonError,
    EmptyFolderError,
    FolderNotFoundError,
    MisnamedImageError,
    MissingModalityError,
    SurplusChannelError,
)

SOUND = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "tumour": 1}, "numTraining": 2,
         "file_ending": ".nii.gz"}


def describe(folder: Path, **changes: Any) -> dict[str, Any]:
    content = {key: value for key, value in (SOUND | changes).items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(content))
    return content


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


class TestListCases:
    def list(self, folder: Path, channels: int = 2) -> dict[str, tuple[str, ...]]:
        cases = list_cases(folder, channels=["T1", "FLAIR", "T2"][:channels], file_ending=".nii.gz")
        return {name: tuple(path.name for path in case.images) for name, case in cases.items()}

    def test_orders_cases_by_name_and_files_by_channel(self, tmp_path: Path) -> None:
        touch(tmp_path, "b_0001.nii.gz", "b_0000.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz")
        assert list(self.list(tmp_path).items()) == [("a", ("a_0000.nii.gz", "a_0001.nii.gz")),
                                                     ("b", ("b_0000.nii.gz", "b_0001.nii.gz"))]

    def test_takes_only_the_last_number_for_the_channel(self, tmp_path: Path) -> None:
        touch(tmp_path, "site.1_0001_0000.nii.gz", "site.1_0001_0001.nii.gz")
        assert list(self.list(tmp_path)) == ["site.1_0001"]

    def test_passes_over_everything_that_is_no_case(self, tmp_path: Path) -> None:
        touch(tmp_path, "a_0000.nii.gz", "._a_0000.nii.gz", "a.nii.gz", "b_00.nii.gz", "b_0000.nii", "b_0000xnii.gz")
        touch(tmp_path / "c_0000.nii.gz")
        assert list(self.list(tmp_path, channels=1)) == ["a"]

    def test_names_the_channel_that_is_missing(self, tmp_path: Path) -> None:
        touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0001.nii.gz")
        with pytest.raises(MissingModalityError, match=r"case b has no T1 image: expected .*b_0000\.nii\.gz.*--allow_missing"):
            self.list(tmp_path)

    def test_names_a_link_that_leads_nowhere(self, tmp_path: Path) -> None:
        """As where the folder that a dataset was linked from has moved: no case may vanish without a word."""
        touch(tmp_path, "a_0000.png")
        (tmp_path / "b_0000.png").symlink_to(tmp_path / "moved" / "b_0000.png")
        with pytest.raises(MissingModalityError, match=r"expected .*b_0000\.png, a link that leads nowhere"):
            list_cases(tmp_path, channels=["T1"], file_ending=".png")

    def test_refuses_a_channel_beyond_the_dataset(self, tmp_path: Path) -> None:
        touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz")
        with pytest.raises(SurplusChannelError, match=r"a_0002\.nii\.gz is beyond .*\(T1, FLAIR\)"):
            self.list(tmp_path)

    def test_tells_an_absent_folder_from_an_empty_one(self, tmp_path: Path) -> None:
        with pytest.raises(FolderNotFoundError):
            self.list(tmp_path / "nowhere")
        with pytest.raises(EmptyFolderError):
            self.list(tmp_path)

    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(names=st.sets(st.from_regex(r"[ab_09 -][ab_.09 -]{0,7}", fullmatch=True), min_size=1, max_size=4))
    def test_finds_whatever_names_were_written(self, names: set[str],
                                               tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("images")
        touch(folder, *(f"{name}_{channel:04d}.nii.gz" for name in names for channel in range(2)))
        assert set(self.list(folder)) == names


class TestTrainingCases:
    def test_agree_with_nnunet(self, tmp_path: Path) -> None:
        content = describe(tmp_path)
        touch(tmp_path / "imagesTr", *(f"{case}_000{channel}.nii.gz" for case in ("a", "b_1") for channel in (0, 1)))
        touch(tmp_path / "labelsTr", "a.nii.gz", "b_1.nii.gz")
        stock = get_filenames_of_train_images_and_targets(str(tmp_path), content)
        ours = training_cases(tmp_path, content)
        assert {name: ([str(path) for path in case.images], str(case.label)) for name, case in ours.items()} \
            == {str(name): (entry["images"], entry["label"]) for name, entry in stock.items()}

    def test_follow_the_explicit_lists_relative_to_the_dataset(self, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SCANS", str(touch(tmp_path / "elsewhere", "y.nii.gz")))
        touch(tmp_path / "raw" / "any", "x.nii.gz")
        listed = {"p": {"images": ["any/x.nii.gz", "$SCANS/y.nii.gz"], "label": "any/seg.nii.gz"}}
        case = training_cases(tmp_path / "raw", SOUND | {"dataset": listed})["p"]
        assert case.images == (tmp_path / "raw" / "any" / "x.nii.gz", Path(os.environ["SCANS"]) / "y.nii.gz")
        assert case.label == tmp_path / "raw" / "any" / "seg.nii.gz"

    @pytest.mark.parametrize("images", [["x.nii.gz"], ["x.nii.gz", "absent.nii.gz"]])
    def test_refuse_an_explicit_list_without_all_channels(self, tmp_path: Path, images: list[str]) -> None:
        touch(tmp_path, "x.nii.gz")
        with pytest.raises(MissingModalityError, match="case p has no FLAIR image"):
            training_cases(tmp_path, SOUND | {"dataset": {"p": {"images": images, "label": "seg.nii.gz"}}})

    def test_may_lack_files_where_dataset_json_says_so(self, tmp_path: Path) -> None:
        content = describe(tmp_path) | {"missing_modalities": True}
        touch(tmp_path / "imagesTr", "a_0000.nii.gz", "b_0001.nii.gz")
        cases = training_cases(tmp_path, content)
        assert {name: case.found for name, case in cases.items()} == {"a": (True, False), "b": (False, True)}
        assert [path.name for path in examples(cases.values())] == ["a_0000.nii.gz", "b_0001.nii.gz"]
        with pytest.raises(MissingModalityError, match="train without it: .missing_modalities.: true in dataset.json"):
            training_cases(tmp_path, content | {"missing_modalities": False})

    @pytest.mark.parametrize(("images", "problem"), [(["x.nii.gz"], "no FLAIR image.*names of those that it lacks"),
                                                     (["absent.nii.gz", "gone.nii.gz"], "no T1 image.*one image at least")])
    def test_name_all_files_in_explicit_lists_and_have_one(self, tmp_path: Path, images: list[str], problem: str) -> None:
        touch(tmp_path, "x.nii.gz", "y.nii.gz")
        both = {"images": ["x.nii.gz", "y.nii.gz"], "label": "seg.nii.gz"}
        lists = {"p": {"images": images, "label": "seg.nii.gz"}, "q": both}
        content = SOUND | {"missing_modalities": True}
        assert training_cases(tmp_path, content | {"dataset": {"p": {**both, "images": ["gone", "x.nii.gz"]}, "q": both}})
        with pytest.raises(MissingModalityError, match=f"case p has {problem}"):
            training_cases(tmp_path, content | {"dataset": lists})

    @pytest.mark.parametrize("listed", [[], {}, {"p": {"images": ["x"]}}, {"p": None},
                                        {"p": {"images": 3, "label": "x"}}, {"p": {"images": [1], "label": "x"}},
                                        {"p": {"images": "xy", "label": "x"}}, {"a/b": {"images": ["x", "y"], "label": "z"}},
                                        {"": {"images": ["x", "y"], "label": "z"}}])
    def test_refuse_explicit_lists_that_name_no_files(self, tmp_path: Path, listed: Any) -> None:
        with pytest.raises(DatasetJsonError, match="dataset"):
            training_cases(tmp_path, SOUND | {"dataset": listed})

    def test_have_no_labels_where_there_is_no_folder_of_them(self, tmp_path: Path) -> None:
        touch(tmp_path / "imagesTr", "a_0000.nii.gz", "a_0001.nii.gz")
        assert training_cases(tmp_path, SOUND)["a"].label is None
        (tmp_path / "labelsTr").mkdir()
        assert training_cases(tmp_path, SOUND)["a"].label == tmp_path / "labelsTr" / "a.nii.gz"

    def test_refuse_a_dataset_without_images(self, tmp_path: Path) -> None:
        with pytest.raises(FolderNotFoundError, match="imagesTr"):
            training_cases(tmp_path, SOUND)


@pytest.mark.parametrize(("name", "holds"), [("a_0003.nii.gz", True), ("a_0003.nrrd", False), ("a.nii.gz", False),
                                            ("a_1.nii.gz", False)])
def test_a_folder_holds_cases_if_it_holds_a_numbered_file(name: str, holds: bool, tmp_path: Path) -> None:
    (tmp_path / "b_0000.nii.gz").mkdir()
    assert holds_cases(touch(tmp_path, name), ".nii.gz") == holds


class TestFoldersWithoutCases:
    def test_files_without_channel_numbers_are_named_with_the_converter(self, tmp_path: Path) -> None:
        with pytest.raises(MisnamedImageError, match=r"c0\.nii\.gz is not named CASE_0000.*f4s_convert_dataset msd"):
            list_cases(touch(tmp_path / "in", "c0.nii.gz"), channels=["T1"], file_ending=".nii.gz")

    def test_dicom_is_sent_to_its_converter(self, tmp_path: Path) -> None:
        with pytest.raises(EmptyFolderError, match="f4s_convert_dataset dicom"):
            list_cases(touch(tmp_path / "in", "IM1.dcm"), channels=["T1"], file_ending=".nii.gz")
        (tmp_path / "in" / "IM1.dcm").rename(tmp_path / "in" / "IM1")
        (tmp_path / "in" / "IM1").write_bytes(bytes(128) + b"DICM")
        with pytest.raises(EmptyFolderError, match="f4s_convert_dataset dicom"):
            list_cases(tmp_path / "in", channels=["T1"], file_ending=".nii.gz")

    def test_labels_of_brats_before_2023_are_sent_to_theirs(self, tmp_path: Path) -> None:
        describe(tmp_path, labels={"background": 0, "core": 1, "oedema": 2, "enhancing": 4})
        with pytest.raises(DatasetJsonError, match="f4s_convert_dataset brats"):
            read_dataset_json(tmp_path)

    @pytest.mark.parametrize(("ending", "other"), [(".nii.gz", ".NII.GZ"), (".png", ".PNG"), (".nrrd", ".Nrrd")])
    def test_files_in_capitals_beside_others_are_said_to_be_left_out(self, ending: str, other: str, tmp_path: Path,
                                                                     caplog: pytest.LogCaptureFixture) -> None:
        touch(tmp_path, f"a_0000{ending}", f"b_0000{other}", f"c_0000{other}", f"._a_0000{ending}", ".DS_Store", f"d{other}")
        assert list(list_cases(tmp_path, channels=["T1"], file_ending=ending)) == ["a"]
        (record,) = caplog.records
        said = f"{tmp_path}: left out b_0000{other} and 1 more: only files *{ending} are read."
        assert record.getMessage() == f"{said} Convert or rename what is meant to be."

    def test_channels_of_another_format_beside_others_are_said_to_be_left_out(self, tmp_path: Path,
                                                                              caplog: pytest.LogCaptureFixture) -> None:
        touch(tmp_path, "a_0000.nii.gz", "b_0000.nii", "c_0000.mha", "a.json", "notes.txt")
        (tmp_path / "d_0000.nii.gz").mkdir()
        assert list(list_cases(tmp_path, channels=["T1"], file_ending=".nii.gz")) == ["a"]
        (record,) = caplog.records
        assert record.getMessage().startswith(f"{tmp_path}: left out b_0000.nii and 1 more: only files *.nii.gz are read.")

    def test_files_of_another_ending_are_named(self, tmp_path: Path) -> None:
        touch(tmp_path, "a_0000.NII.GZ", "b_0000.tiff", "._a_0000.nii.gz")
        with pytest.raises(EmptyFolderError, match=r"holds no file \*\.nii\.gz, but \*\.NII\.GZ, \*\.tiff"):
            list_cases(tmp_path, channels=["T1"], file_ending=".nii.gz")
