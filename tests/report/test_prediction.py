"""What a report finds in a folder of predictions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.errors import FolderNotFoundError, OptionError, UnreadableRecordError
from fuse4seg.report.prediction import read_prediction


class TestReadPrediction:
    def test_finds_files_and_record_of_every_case(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a", "b")
        prediction = read_prediction(made.folder)
        assert [case.name for case in prediction.cases] == ["a", "b"]
        case = prediction.cases[1]
        assert (case.segmentation, case.fused) == (made.folder / "b.nii.gz", made.folder / "fused" / "b.nii.gz")
        assert case.sources == {"T1": made.images / "b_0000.nii.gz", "FLAIR": made.images / "b_0001.nii.gz"}
        assert (case.failure, case.told["seconds"], prediction.without_sources) == (None, 1.5, None)
        assert prediction.made_by["folds"] == [0]
        assert prediction.classes == {"oedema": 1, "core": 2}

    def test_has_cases_that_failed_with_their_reason(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        made.told("lost", status="failed", reason="case lost: it is lost")
        assert [case.failure for case in read_prediction(made.folder).cases] == [None, "case lost: it is lost"]

    def test_knows_what_a_case_lacked_also_without_a_record(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a", "b")
        (made.folder / "run.json").unlink()
        (made.folder / "missing_modalities.json").write_text('{"b": ["FLAIR"]}')
        assert [case.told.get("absent") for case in read_prediction(made.folder).cases] == [None, ["FLAIR"]]

    def test_joins_the_records_of_parts(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a", "b")
        record = json.loads((made.folder / "run.json").read_text())
        for number, name in enumerate("ab"):
            (made.folder / f"run_{number}_of_2.json").write_text(json.dumps({**record, "cases": {name: record["cases"][name]}}))
        (made.folder / "run.json").unlink()
        assert all(case.told for case in read_prediction(made.folder).cases)

    def test_takes_the_first_fold_where_there_are_several(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        for fold in (0, 1):
            shutil.copytree(made.folder / "fused", made.folder / f"fold_{fold}")
        shutil.rmtree(made.folder / "fused")
        (made.folder / "fused").mkdir()
        for fold in (0, 1):
            (made.folder / f"fold_{fold}").rename(made.folder / "fused" / f"fold_{fold}")
        assert read_prediction(made.folder).cases[0].fused == made.folder / "fused" / "fold_0" / "a.nii.gz"

    def test_finds_dataset_json_in_the_folder_of_a_validated_model(self, make_prediction: Callable[..., Any],
                                                                   tmp_path: Path) -> None:
        made = make_prediction("a")
        validation = tmp_path / "model" / "fold_0" / "validation"
        shutil.copytree(made.folder, validation)
        shutil.move(validation / "dataset.json", tmp_path / "model")
        assert [case.name for case in read_prediction(validation).cases] == ["a"]

    def test_says_in_a_line_that_the_sources_have_gone(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        made.images.rename(made.images.with_name("elsewhere"))
        prediction = read_prediction(made.folder)
        assert prediction.cases[0].sources == {}
        assert str(made.images) in prediction.without_sources
        assert "-i" in prediction.without_sources
        again = read_prediction(made.folder, images=made.images.with_name("elsewhere"))
        assert again.without_sources is None
        assert again.cases[0].sources["T1"].is_file()

    def test_takes_a_recorded_list_of_files(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        record = json.loads((made.folder / "run.json").read_text())
        record["made_by"]["input"] = [str(made.images / f"a_000{channel}.nii.gz") for channel in (0, 1)]
        (made.folder / "run.json").write_text(json.dumps(record))
        assert read_prediction(made.folder).cases[0].sources["FLAIR"] == made.images / "a_0001.nii.gz"

    def test_its_id_is_that_of_what_was_predicted(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a", "b")
        known = read_prediction(made.folder).report_id
        assert len(known) == 16
        made.told("a", seconds=3)
        assert read_prediction(made.folder).report_id == known
        shutil.copy(made.labels / "a.nii.gz", made.folder / "a.nii.gz")
        assert read_prediction(made.folder).report_id != known

    @pytest.mark.parametrize("gone", ["dataset.json", "fused"])
    def test_refuses_a_folder_that_holds_no_prediction(self, make_prediction: Callable[..., Any], gone: str) -> None:
        made = make_prediction("a")
        (made.folder / gone).rename(made.folder / "moved")
        with pytest.raises(OptionError, match=f"{made.folder} holds no prediction.*f4s_predict"):
            read_prediction(made.folder)

    def test_refuses_sources_of_other_cases_and_a_damaged_record(self, make_prediction: Callable[..., Any]) -> None:
        made, other = make_prediction("a"), make_prediction("z", place="other")
        with pytest.raises(OptionError, match=f"{other.images} holds none of these cases, but for example z"):
            read_prediction(made.folder, images=other.images)
        with pytest.raises(FolderNotFoundError):
            read_prediction(made.folder, images=other.images / "nowhere")
        (made.folder / "run.json").write_text("[]")
        with pytest.raises(UnreadableRecordError, match="is no record"):
            read_prediction(made.folder)
