"""Records of predictions: what counts as done, what is refused, what another part may not touch."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.errors import Fuse4SegError, OptionError, UnreadableRecordError
from fuse4seg.inference.model_calibration import write_doubts
from fuse4seg.inference.run_record import RunRecord, checksums, describe_ensemble, describe_run, open_record


@pytest.fixture
def made_by(tmp_path: Path) -> dict[str, Any]:
    model = tmp_path / "Trainer__Plans__2d"
    (model / "fold_0").mkdir(parents=True)
    (model / "fold_0" / "final.pth").write_bytes(b"weights")
    return describe_run(model, folds=[0], checkpoint="final.pth", device="cpu", options={"mirroring": True})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "case_0000.nii.gz"
    path.write_bytes(b"voxels")
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "case.nii.gz").write_bytes(b"labels")
    return folder


@pytest.fixture
def noted(made_by: dict[str, Any], source: Path, output: Path) -> RunRecord:
    record = open_record(output, made_by, resume=False)
    record.note_done("case", checksums([source]), [output / "case.nii.gz"], output=output, seconds=1.23456, absent=["T2"])
    return record


class TestRunRecord:
    def test_knows_after_a_restart_what_is_done(self, noted: RunRecord, made_by: dict[str, Any], source: Path,
                                                output: Path) -> None:
        again = open_record(output, made_by, resume=True)
        assert again.is_done("case", [source], output)
        assert not again.is_done("other", [source], output)
        assert again.cases["case"] == {"status": "done", "seconds": 1.235, "outputs": ["case.nii.gz"], "absent": ["T2"],
                                       "sources": noted.cases["case"]["sources"]}

    def test_names_one_model_or_all_of_an_ensemble(self, made_by: dict[str, Any], output: Path) -> None:
        one = open_record(output, made_by, resume=False)
        assert (one.model, one.weights) == ("Trainer__Plans__2d", made_by["weights"])
        other = {**made_by, "model": "Trainer__Plans__3d", "weights": ["a", "b"]}
        both = open_record(output, describe_ensemble({"2d": made_by, "3d": other}, options={}), resume=False)
        assert (both.model, both.weights) == ("Trainer__Plans__2d + Trainer__Plans__3d", [*made_by["weights"], "a", "b"])

    def test_tells_what_is_told_of_a_case(self, noted: RunRecord, made_by: dict[str, Any], source: Path, output: Path) -> None:
        noted.note_done("case", checksums([source]), [], output=output, seconds=1, facts={"volumes": {"core": 1.5}})
        again = open_record(output, made_by, resume=True)
        assert again.cases["case"]["volumes"] == {"core": 1.5}
        assert again.cases["case"]["status"] == "done"

    def test_does_not_trust_what_has_changed_or_gone(self, noted: RunRecord, source: Path, output: Path) -> None:
        source.write_bytes(b"other voxels")
        assert not noted.is_done("case", [source], output)
        source.write_bytes(b"voxels")
        assert noted.is_done("case", [source], output)
        (output / "case.nii.gz").unlink()
        assert not noted.is_done("case", [source], output)

    def test_takes_no_case_for_done_whose_source_is_gone(self, noted: RunRecord, source: Path, output: Path) -> None:
        source.unlink()
        assert not noted.is_done("case", [source], output)

    def test_does_not_take_a_failed_case_for_done(self, noted: RunRecord, made_by: dict[str, Any], source: Path,
                                                  output: Path) -> None:
        noted.note_failed({"case": Fuse4SegError("it is constant")})
        noted.write()
        again = open_record(output, made_by, resume=True)
        assert not again.is_done("case", [source], output)
        assert again.cases["case"] == {"status": "failed", "reason": "it is constant"}

    def test_starts_anew_unless_it_is_resumed(self, noted: RunRecord, made_by: dict[str, Any], output: Path) -> None:
        assert noted.path.is_file()
        assert open_record(output, made_by, resume=False).cases == {}
        assert open_record(output / "elsewhere", made_by, resume=True).cases == {}

    @pytest.mark.parametrize("changed", [{"weights": ["0"]}, {"options": {"mirroring": False}}, {"folds": [1]}])
    def test_refuses_another_model_and_other_options(self, noted: RunRecord, made_by: dict[str, Any], output: Path,
                                                     changed: dict[str, Any]) -> None:
        with pytest.raises(OptionError, match=f"{noted.path} was made with {next(iter(changed))}"):
            open_record(output, {**made_by, **changed}, resume=True)

    def test_goes_on_elsewhere(self, noted: RunRecord, made_by: dict[str, Any], output: Path) -> None:
        assert open_record(output, {**made_by, "device": "cuda", "versions": {}}, resume=True).cases == noted.cases

    def test_goes_on_after_another_previous_stage_by_the_checksums_of_its_segmentations(
            self, noted: RunRecord, made_by: dict[str, Any], output: Path) -> None:
        assert open_record(output, {**made_by, "previous_stage": {"folder": "there"}}, resume=True).cases == noted.cases

    def test_tells_where_the_input_is_and_what_doubt_is_worth(self, tmp_path: Path, made_by: dict[str, Any]) -> None:
        assert not {"input", "calibration"} & made_by.keys()
        model = tmp_path / "Trainer__Plans__2d"
        (model / "fold_0" / "validation").mkdir()
        write_doubts([{"dice": number / 10, "doubt": number / 10, "volume": 1.0} for number in range(6)], model / "fold_0")
        describe = partial(describe_run, model, folds=[0], checkpoint="final.pth", device="cpu", options={})
        assert describe(images=Path("images"))["input"] == {"folder": str(Path.cwd() / "images")}
        assert describe(images=[Path("/a/b.nii.gz")])["input"] == {"files": ["/a/b.nii.gz"]}
        assert describe()["calibration"] == {"cases": 6, "rank_correlation": 1, "worst_fifth_found": 0,
                                             "by_volume_alone": {"rank_correlation": None, "worst_fifth_found": 1}}

    @pytest.mark.parametrize("content", ["{", "[]", json.dumps({"made_by": {}}), json.dumps({"made_by": 1, "cases": {}})])
    def test_refuses_a_damaged_one(self, made_by: dict[str, Any], output: Path, content: str) -> None:
        (output / "run.json").write_text(content)
        with pytest.raises(UnreadableRecordError, match=r"run\.json .*Predict without --continue_prediction"):
            open_record(output, made_by, resume=True)

    def test_of_parts_lie_beside_each_other(self, made_by: dict[str, Any], output: Path) -> None:
        names = {open_record(output, made_by, resume=False, part=(number, 3)).path.name for number in range(3)}
        assert names == {"run_0_of_3.json", "run_1_of_3.json", "run_2_of_3.json"}
