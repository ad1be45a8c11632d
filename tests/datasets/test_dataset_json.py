"""dataset.json is validated with the mend named, and its names and labels are what nnU-Net makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from fuse4seg.datasets.dataset_json import (
    channel_names,
    declaration_kept,
    file_part,
    foreground_classes,
    label_values,
    may_lack_channels,
    read_dataset_json,
    read_raw_dataset_json,
)
from fuse4seg.errors import (
    DatasetJsonError,
)

SOUND = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "tumour": 1}, "numTraining": 2,
         "file_ending": ".nii.gz"}
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]}


def describe(folder: Path, **changes: Any) -> dict[str, Any]:
    content = {key: value for key, value in (SOUND | changes).items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(content))
    return content


class TestReadDatasetJson:
    def test_returns_the_content(self, tmp_path: Path) -> None:
        content = describe(tmp_path)
        assert read_dataset_json(tmp_path) == content

    def test_accepts_the_older_name_of_the_channels(self, tmp_path: Path) -> None:
        describe(tmp_path, channel_names=None, modality={"0": "T1"})
        assert channel_names(read_dataset_json(tmp_path)) == ["T1"]

    def test_accepts_regions_and_an_ignore_label(self, tmp_path: Path) -> None:
        assert read_dataset_json(describe(tmp_path, **REGIONS) and tmp_path)["labels"] == REGIONS["labels"]

    @pytest.mark.parametrize(("text", "said"), [("{", "as JSON"), ("[]", "not a JSON object"), ("\xff", "as JSON"),
                                               ('{"labels": {}, "labels": {}}', "it gives 'labels' twice")])
    def test_refuses_what_is_no_json_object(self, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / "dataset.json").write_text(text, encoding="latin-1")
        with pytest.raises(DatasetJsonError, match=said):
            read_dataset_json(tmp_path)

    def test_names_the_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetJsonError, match=r"dataset\.json: is missing"):
            read_dataset_json(tmp_path)

    @pytest.mark.parametrize(("changes", "said"), [
        ({"channel_names": None}, "lacks channel_names"),
        ({"labels": None}, "lacks labels"),
        ({"file_ending": None}, "lacks file_ending"),
        ({"numTraining": None}, "lacks numTraining"),
        ({"channel_names": {"1": "T1", "2": "T2"}}, "Renumber"),
        ({"channel_names": ["T1"]}, "must map"),
        ({"channel_names": True}, "must map"),
        ({"channel_names": 2.5}, "must map"),
        ({"channel_names": {}}, "must map"),
        ({"labels": {"0": "background", "1": "tumour"}}, "must map each name"),
        ({"labels": {"background": 0, "tumour": []}}, "must map each name"),
        ({"labels": {"tumour": 1}}, "background"),
        ({"labels": {"background": 0, "tumour": 2}}, "without a gap"),
        ({"labels": {"background": 0, "tumour": 2, "ignore": 1}}, "ignore"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions_class_order"),
        (REGIONS | {"regions_class_order": [1, 1]}, "the region 'core' the value 1"),
        (REGIONS | {"regions_class_order": [2, 9]}, "the region 'core' the value 9"),
        (REGIONS | {"regions_class_order": ["whole", "core"]}, "the region 'whole' the value 'whole'"),
        ({"channel_names": {"0": ["T1"], "1": "FLAIR"}}, r"not to \['T1'\]"),
        ({"channel_names": {"0": "T1", "1": None}}, "not to None"),
        ({"overwrite_image_reader_writer": 5}, "the name of a reader of nnU-Net's, not 5"),
        ({"file_ending": "nii.gz"}, "with its dot"),
        ({"normalization": {"7": "zscore"}}, "normalization must map"),
        ({"normalization": {"0": "best"}}, "some of ct, nonorm, zscore"),
        ({"numTraining": "2"}, "number of cases"),
    ])
    def test_names_the_problem_in_one_line(self, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
        describe(tmp_path, **changes)
        with pytest.raises(DatasetJsonError, match=said) as caught:
            read_dataset_json(tmp_path)
        assert "\n" not in str(caught.value)


class TestChannelNames:
    def test_follow_the_numbers_rather_than_the_order_of_writing(self) -> None:
        names = {str(number): f"channel {number}" for number in reversed(range(12))}
        assert channel_names({"channel_names": names}) == [f"channel {number}" for number in range(12)]


class TestForegroundClasses:
    @pytest.mark.parametrize("labels", [
        {"background": 0, "a": 1, "b": 2}, {"background": 0, "a": [1], "b": 2, "ignore": 3},
        {"background": 0, "whole": [1, 2], "core": 2},
        {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ignore": 4},
    ])
    def test_are_those_that_nnunet_evaluates(self, labels: dict[str, Any]) -> None:
        manager = LabelManager(labels, regions_class_order=[1, 2])
        expected = manager.foreground_regions if manager.has_regions else manager.foreground_labels
        # nnU-Net keeps a region of one label as a tuple of one; the voxels are the same.
        plain = [entry[0] if isinstance(entry, tuple) and len(entry) == 1 else entry for entry in expected]
        assert list(foreground_classes({"labels": labels}).values()) == plain

    def test_leave_the_ignore_label_to_the_label_values(self) -> None:
        assert "ignore" not in foreground_classes(REGIONS)
        assert label_values(REGIONS) == {0, 1, 2, 3}


class TestRawDatasetJson:
    @pytest.mark.parametrize("labels", [{}, {"labels": None}, {"labels": {"background": 0}}, REGIONS, {"labels": {"tumour": 7}}])
    def test_without_labels_names_the_background_alone(self, tmp_path: Path, labels: dict[str, Any]) -> None:
        describe(tmp_path, **labels)
        found = read_raw_dataset_json(tmp_path)
        assert found == SOUND | {"labels": {"background": 0}}
        assert foreground_classes(found) == {}

    def test_with_labels_is_what_stands_in_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "labelsTr").mkdir()
        assert read_raw_dataset_json(describe(tmp_path, **REGIONS) and tmp_path) == SOUND | REGIONS
        describe(tmp_path, labels=None)
        with pytest.raises(DatasetJsonError, match="lacks labels"):
            read_raw_dataset_json(tmp_path)

    def test_of_explicit_lists_needs_labels(self, tmp_path: Path) -> None:
        describe(tmp_path, labels=None, dataset={"p": {"images": ["x"], "label": "y"}})
        with pytest.raises(DatasetJsonError, match="lacks labels"):
            read_raw_dataset_json(tmp_path)


class TestMissingModalities:
    def test_are_allowed_by_the_file_or_by_the_caller(self, tmp_path: Path) -> None:
        describe(tmp_path)
        assert not may_lack_channels(read_raw_dataset_json(tmp_path))
        assert may_lack_channels(read_raw_dataset_json(tmp_path, allow_missing=True))
        describe(tmp_path, missing_modalities=True)
        assert may_lack_channels(read_raw_dataset_json(tmp_path))

    @pytest.mark.parametrize("wrong", ["true", 1, []])
    def test_are_allowed_or_not(self, tmp_path: Path, wrong: Any) -> None:
        describe(tmp_path, missing_modalities=wrong)
        with pytest.raises(DatasetJsonError, match="missing_modalities must be true or false"):
            read_dataset_json(tmp_path)

    @pytest.mark.parametrize(("before", "stated", "after"), [
        ({}, {}, False), ({"missing_modalities": True}, {}, True), ({}, {"missing_modalities": True}, True)])
    def test_stay_declared_where_the_file_is_written_anew(self, tmp_path: Path, before: dict[str, bool], stated: dict[str, bool],
                                                          after: bool) -> None:
        """Preprocessed data are what they were until they are preprocessed anew."""
        describe(tmp_path, **before)
        with declaration_kept(tmp_path, stated=stated):
            describe(tmp_path)
        assert may_lack_channels(read_dataset_json(tmp_path)) is after

    def test_leave_a_damaged_file_to_those_who_write_it_anew(self, tmp_path: Path) -> None:
        (tmp_path / "dataset.json").write_text("{")
        with declaration_kept(tmp_path, stated={"missing_modalities": True}):
            describe(tmp_path)
        assert may_lack_channels(read_dataset_json(tmp_path))


class TestNames:
    @pytest.mark.parametrize(("names", "said"), [
        (("MRI", "MRI"), "'MRI' and 'MRI'"), (("T1", "t1"), "'T1' and 't1'"), (("T1/post", "T1:post"), "same file name"),
        (("", "T1"), "empty"), (("x" * 101, "T1"), "longer than 100 bytes")])
    def test_that_clash_as_file_names_are_refused(self, tmp_path: Path, names: tuple[str, str], said: str) -> None:
        describe(tmp_path, channel_names=dict(zip("01", names, strict=True)))
        with pytest.raises(DatasetJsonError, match=f"channel name.*{said}"):
            read_dataset_json(tmp_path)

    @pytest.mark.parametrize(("labels", "said"), [
        ({"core": 1, "necrosis": 1}, "'core' and 'necrosis' the same value"), ({"NCR/NET": 1, "ncr-net": 2}, "same file name")])
    def test_labels_of_one_value_or_file_name_are_refused(self, tmp_path: Path, labels: dict[str, int], said: str) -> None:
        describe(tmp_path, labels={"background": 0} | labels)
        with pytest.raises(DatasetJsonError, match=said):
            read_dataset_json(tmp_path)

    def test_become_parts_of_file_names(self) -> None:
        assert [file_part(name) for name in ("NCR/NET", "a\\b", "T1 post", "..")] == ["NCR-NET", "a-b", "T1 post", ".."]
