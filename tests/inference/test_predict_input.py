"""What kind of input a folder is, and what becomes of a source's cases: written, predicted, given back, or listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuse4seg.errors import (
    FaultyCasesError,
    FaultyImageError,
    Fuse4SegError,
    MissingExtraError,
    OptionError,
    UnwritableFolderError,
)
from fuse4seg.inference import predict_input as module
from fuse4seg.inference.predict_input import Job, predict_input
from fuse4seg.inference.run_record import RunRecord


class Made:
    """Three cases, of which those in ``bad`` cannot be written, and those in ``lost`` not given back."""

    def __init__(self, *, bad: tuple[str, ...] = (), lost: tuple[str, ...] = (), **faults: Fuse4SegError) -> None:
        self.cases, self.folders, self.outputs = ["a", "b", "c"], {Path("nowhere")}, ["back"]
        self.faults, self.given, self.finished, self._bad, self._lost = dict(faults), [], False, bad, lost

    def write(self, case: str, folder: Path) -> None:
        (folder / f"{case}_0000.nii.gz").write_text("x")
        if case in self._bad:
            raise RuntimeError("bad voxels")

    def give_back(self, case: str) -> None:
        if case in self._lost:
            raise RuntimeError("bad header")
        self.given.append(case)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "out").mkdir()
    description: Any = SimpleNamespace(file_ending=".nii.gz", dataset_json={"channel_names": {"0": "T1"}})
    return Job(description, (0,), 0, tmp_path / "out", RunRecord(tmp_path / "out" / "run.json", {"model": "m", "weights": []}))


@pytest.fixture
def run(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Predicts a source, all of whose cases are done but those in ``fails``; returns the files that were predicted."""

    def run(source: Made, fails: Fuse4SegError | None = None, failed: tuple[str, ...] = ()) -> list[str]:
        monkeypatch.setattr(module, "_source", lambda images, job: source)
        seen: list[str] = []

        def predict(folder: Path) -> None:
            seen.extend(sorted(path.name for path in folder.iterdir()))
            if isinstance(fails, OptionError | UnwritableFolderError):
                raise fails
            for name in seen:
                job.record.cases[name[0]] = {"status": "failed" if name[0] in failed else "done"}
            if fails is not None:
                raise fails

        predict_input(tmp_path, predict, job)
        return seen

    return run


class TestCases:
    def test_are_written_predicted_and_given_back(self, run: Callable[..., list[str]], job: Job) -> None:
        source = Made()
        assert run(source) == ["a_0000.nii.gz", "b_0000.nii.gz", "c_0000.nii.gz"]
        assert (source.given, source.finished) == (["a", "b", "c"], True)
        assert '"back"' in (job.output / "f4s_outputs.json").read_text()

    def test_that_cannot_be_used_are_listed_and_the_others_done(self, run: Callable[..., list[str]], job: Job) -> None:
        source = Made(bad=("b",), x=FaultyImageError("x", "gap"))
        with pytest.raises(FaultyCasesError) as caught:
            run(source)
        assert caught.value.faults[0] == "case x: gap"
        assert caught.value.faults[1].startswith("case b: it cannot be used (RuntimeError: bad voxels)")
        assert source.given == ["a", "c"]
        assert {name: entry["status"] for name, entry in job.record.cases.items()} == {
            "a": "done", "c": "done", "b": "failed", "x": "failed"}

    def test_that_fail_in_the_network_are_listed_behind_those(self, run: Callable[..., list[str]]) -> None:
        source = Made(x=FaultyImageError("x", "gap"))
        with pytest.raises(FaultyCasesError) as caught:
            run(source, FaultyCasesError(["case a: odd", "case c: odd"]), ("a", "c"))
        assert caught.value.faults == ["case x: gap", "case a: odd", "case c: odd"]
        assert source.given == ["b"]

    def test_that_cannot_be_given_back_are_listed(self, run: Callable[..., list[str]]) -> None:
        source = Made(lost=("a",))
        with pytest.raises(FaultyCasesError, match="case a: .*bad header"):
            run(source)
        assert source.given == ["b", "c"]

    def test_of_which_none_can_be_used_are_not_predicted(self, run: Callable[..., list[str]], job: Job) -> None:
        with pytest.raises(FaultyCasesError, match="3 faulty case"):
            run(Made(bad=("a", "b", "c")))
        assert list(job.output.iterdir()) == []

    @pytest.mark.parametrize("error", [OptionError("-o", "no"), UnwritableFolderError(Path("out"), "full")])
    def test_are_not_given_back_where_all_is_refused(self, run: Callable[..., list[str]], error: Fuse4SegError) -> None:
        source = Made(x=FaultyImageError("x", "gap"))
        with pytest.raises(type(error)):
            run(source, error)
        assert source.given == []

    def test_need_a_format_with_a_place_in_space(self, run: Callable[..., list[str]], job: Job) -> None:
        job.description.file_ending = ".png"
        with pytest.raises(OptionError, match=r"the model reads files \*\.png"):
            run(Made())


class TestKind:
    def predicted(self, images: Path, job: Job) -> list[Path]:
        seen: list[Path] = []
        predict_input(images, seen.append, job)
        return seen

    def test_of_numbered_files_is_theirs_whatever_lies_beside(self, job: Job, tmp_path: Path) -> None:
        for name in ("a_0000.nii.gz", "b.dcm", "dataset_description.json"):
            (tmp_path / name).touch()
        (tmp_path / "sub-01").mkdir()
        assert self.predicted(tmp_path, job) == [tmp_path]

    def test_of_anything_else_is_left_to_be_refused(self, job: Job, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        assert self.predicted(tmp_path / "in", job) == [tmp_path / "in"]
        assert self.predicted(tmp_path / "nowhere", job) == [tmp_path / "nowhere"]

    def test_of_dicom_needs_its_libraries(self, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.dcm").touch()
        monkeypatch.setattr("fuse4seg.datasets.dicom_files.find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"fuse4seg\[dicom\]"):
            self.predicted(tmp_path, job)
