"""Preprocessing: nnU-Net's numbers, nothing half-written, and plans that cannot be used."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blosc2
import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg import background
from fuse4seg.datasets.raw import Case
from fuse4seg.errors import (
    ConfigurationNotFoundError,
    FaultyImageError,
    PlansNotFoundError,
    UnwritableFolderError,
    WorkerDiedError,
)
from fuse4seg.farm.farm import Job
from fuse4seg.farm.processes import FEWER, ProcessFarm
from fuse4seg.planning import preprocess as module
from fuse4seg.planning.planner import plan_experiment
from fuse4seg.planning.preprocess import choose_configurations, preprocess, usable_plans

PLANS = {"configurations": {"2d": {"data_identifier": "nnUNetPlans_2d", "architecture": {}},
                            "3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres", "architecture": {}},
                            "3d_cascade_fullres": {"inherits_from": "3d_fullres"},
                            "mine": {"data_identifier": "mine", "architecture": {}}}}


class TestPreprocess:
    def test_writes_every_case_of_every_configuration(self, planned_phantom: Path) -> None:
        folder = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom"

        for name in ("nnUNetPlans_2d", "nnUNetPlans_3d_fullres"):
            images = sorted((folder / name).glob("*[0-9].b2nd"))
            assert len(images) == 5
            assert blosc2.open(str(images[0])).shape[0] == 4

    def test_puts_the_labels_beside_the_data(self, planned_phantom: Path) -> None:
        raw = planned_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "labelsTr"
        copies = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom" / "gt_segmentations"

        assert {path.name: path.read_bytes() for path in copies.iterdir()} == {
            path.name: path.read_bytes() for path in raw.iterdir()}

    def test_refuses_a_configuration_that_is_not_planned(self, make_fingerprinted: Callable[..., Path]) -> None:
        make_fingerprinted((24, 40, 36))
        plan_experiment(991)

        with pytest.raises(ConfigurationNotFoundError, match=r"3d_lowres\. Choose one of: 2d, 3d_fullres"):
            preprocess(991, configurations=["2d", "3d_lowres"], processes=1)

    def test_refuses_plans_that_are_not_there(self, make_fingerprinted: Callable[..., Path]) -> None:
        make_fingerprinted((24, 40, 36))

        with pytest.raises(PlansNotFoundError, match=r"Mine\.json"):
            preprocess(991, plans_name="Mine", processes=1)

    def test_names_a_case_that_kills_processes(self) -> None:
        with pytest.raises(WorkerDiedError, match=r"while preprocessing case first.* Use fewer processes \(-np 1\)\."):
            run_all(kill, "first")

    def test_any_error_of_a_case_in_another_process_names_it(self) -> None:
        with pytest.raises(FaultyImageError, match=r"case second: it cannot be used \(IndexError: list index out of range\)"):
            run_all(break_second, "first", "second")


def run_all(work: Callable[[None, module.Found], None], *names: str) -> None:
    with ProcessFarm(["cpu"], mend=FEWER) as farm:
        module._run_all(farm, Job(nothing, work, "preprocessing"), [module.Found(name, Case(name, ()), ()) for name in names])


def nothing() -> None:
    """What these workers hold."""


def kill(_: None, _found: module.Found) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def break_second(_: None, found: module.Found) -> None:
    [][0] if found.name == "second" else None


class TestEarlierData:
    @pytest.fixture
    def earlier(self, make_fingerprinted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder with the data of an earlier preprocessing; the cases are preprocessed in this process."""
        monkeypatch.setattr(background, "ProcessPoolExecutor", lambda *_arguments, **_options: ThreadPoolExecutor(1))
        folder = make_fingerprinted((24, 40, 36)) / "nnUNetPlans_2d"
        plan_experiment(991)
        folder.mkdir()
        (folder / "earlier.pkl").touch()
        return folder

    def fail(self, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
        def failing(*_arguments: object, **_options: object) -> None:
            raise error

        monkeypatch.setattr(DefaultPreprocessor, name, failing)

    @pytest.mark.parametrize(("name", "error", "raised"), [
        ("run_case_save", RuntimeError("Error while creating the NDArray"), UnwritableFolderError),
        ("run_case_save", OSError(errno.ENOSPC, "No space left on device"), UnwritableFolderError),
        ("run_case", RuntimeError("not an image"), FaultyImageError)])
    def test_stay_when_preprocessing_fails(self, earlier: Path, name: str, error: Exception, raised: type[Exception],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail(monkeypatch, name, error)
        with pytest.raises(raised, match=r"^case case0: .*not an image|^cannot write to .*(full disk|No space left)"):
            preprocess(991, configurations=["2d"], processes=1)
        assert [path.name for path in earlier.iterdir()] == ["earlier.pkl"]
        assert not list(earlier.parent.glob(".*"))

    def test_are_replaced_when_it_succeeds(self, earlier: Path) -> None:
        (earlier.parent / ".partial.nnUNetPlans_2d").mkdir()
        (earlier.parent / ".partial.nnUNetPlans_2d" / "left_by_a_kill.pkl").touch()
        preprocess(991, configurations=["2d"], processes=1)
        assert {path.name for path in earlier.iterdir()} == {"case0.b2nd", "case0_seg.b2nd", "case0.pkl"}
        assert not list(earlier.parent.glob(".*"))


class TestLabels:
    @pytest.fixture
    def labels(self, roots: Path, make_fingerprinted: Callable[..., Path],
               monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        """The label of the only case and its copy, made."""
        folder = make_fingerprinted((24, 40, 36))
        monkeypatch.setattr(module, "_preprocess_group", lambda *_arguments, **_options: None)
        plan_experiment(991)
        preprocess(991, processes=1)
        return [roots / "nnUNet_raw" / "Dataset991_Small" / "labelsTr" / "case0.nii.gz",
                folder / "gt_segmentations" / "case0.nii.gz"]

    def test_are_copied_again_when_they_are_newer(self, labels: list[Path]) -> None:
        labels[0].write_bytes(b"corrected")
        os.utime(labels[0], ns=(0, labels[1].stat().st_mtime_ns + 10**9))

        preprocess(991, processes=1)

        assert labels[1].read_bytes() == b"corrected"

    def test_are_copied_again_when_they_differ_though_older(self, labels: list[Path]) -> None:
        labels[0].write_bytes(b"unpacked")
        os.utime(labels[0], (0, 0))

        preprocess(991, processes=1)

        assert labels[1].read_bytes() == b"unpacked"

    def test_are_left_when_they_are_equal(self, labels: list[Path]) -> None:
        os.utime(labels[1], (0, 0))

        preprocess(991, processes=1)

        assert labels[1].stat().st_mtime == 0


class TestChooseConfigurations:
    def choose(self, wanted: list[str] | None) -> list[str]:
        return choose_configurations(wanted, PlansManager(PLANS), plans_file=Path("Fuse4SegPlans.json"))

    def test_takes_the_usual_ones_that_are_planned(self) -> None:
        assert self.choose(None) == ["2d", "3d_fullres"]

    def test_takes_what_is_wanted(self) -> None:
        assert self.choose(["mine", "2d"]) == ["mine", "2d"]

    def test_takes_the_same_data_once(self) -> None:
        assert self.choose(["3d_fullres", "3d_cascade_fullres"]) == ["3d_fullres"]

    def test_refuses_a_misspelt_name(self) -> None:
        with pytest.raises(ConfigurationNotFoundError, match="3d_fulres"):
            self.choose(["3d_fulres"])


@pytest.fixture
def path(planned_phantom: Path, tmp_path: Path) -> Path:
    planned = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom" / "Fuse4SegPlans.json"
    return Path(tmp_path / planned.name).write_bytes(planned.read_bytes()) and tmp_path / planned.name


def test_of_the_planner_are_usable(path: Path) -> None:
    assert usable_plans(path).plans == json.loads(path.read_text())


@pytest.mark.parametrize(("entry", "value", "reason"), [
    ("preprocessor_name", "os", "does not have"), ("preprocessor_name", "NoSuch", "does not have"), ("spacing", "x", "spacing"),
    ("spacing", [0, 1], "spacing"), ("resampling_fn_data", "no_such_function", "no_such_function"),
    ("resampling_fn_seg_kwargs", 7, "TypeError"), ("data_identifier", "", "empty"), ("inherits_from", "2d", "Circular")])
def test_with_a_faulty_entry_are_not(path: Path, entry: str, value: object, reason: str) -> None:
    plans = json.loads(path.read_text())
    plans["configurations"]["2d"][entry] = value
    path.write_text(json.dumps(plans))
    with pytest.raises(PlansNotFoundError, match=reason) as refused:
        usable_plans(path)
    assert str(path) in str(refused.value)
