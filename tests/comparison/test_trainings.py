"""Trainings of a comparison: their commands, devices, failures, and what is not done twice."""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuse4seg.comparison.rows import OWN, Row
from fuse4seg.comparison.trainings import Budget, Trial, run_trials
from fuse4seg.training.run import Training


def trial(output: Path, name: str = "fuse4seg", *, ours: bool = True, changes: tuple[str, ...] = (), seed: int = 0) -> Trial:
    row = Row(name, ours=ours, changes=changes)
    return Trial(row, 1, seed, "Dataset990_Phantom", "2d", "Fuse4SegPlans", output, Budget(3, 4, 2))


def finish(done: Trial) -> None:
    folder = done.fold_folder / "validation"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{}")


class TestTrial:
    def test_of_ours_follows_its_plans_but_for_what_is_changed(self, tmp_path: Path) -> None:
        words = trial(tmp_path).command("cpu")
        assert words[3:6] == ["Dataset990_Phantom", "2d", "1"]
        assert {"--c", "--seed", "-p"} <= set(words)
        assert "--set" not in words
        hurried = replace(trial(tmp_path), changes=("training.iterations=9",))
        assert hurried.command("cpu")[-2:] == ["--set", "training.iterations=9"]

    def test_of_stock_nnunet_has_no_recipe(self, tmp_path: Path) -> None:
        words = trial(tmp_path, "stacked", ours=False).command("cpu")
        assert "fuse4seg.cli.train_stock_nnunet" in words
        assert words[-4:] == ["--epochs", "3", "--iterations", "4"]
        assert "--set" not in words

    def test_finds_the_model_where_its_training_leaves_it(self, tmp_path: Path) -> None:
        assert trial(tmp_path, "stacked", ours=False).model.name == "nnUNetTrainer__StockPlans__2d"
        for changes in ((), ("training.iterations=9",)):
            assert replace(trial(tmp_path), changes=changes).model.name == Training("990", "2d", 1, changes=changes).folder_name

    def test_is_finished_when_it_is_validated(self, tmp_path: Path) -> None:
        one = trial(tmp_path)
        assert not one.finished
        finish(one)
        assert one.finished

    def test_is_finished_where_it_validated_fused_images_alone(self, tmp_path: Path) -> None:
        one = trial(tmp_path)
        (one.fold_folder / "validation").mkdir(parents=True)
        (one.fold_folder / "validation" / "fusion_losses.json").write_text("{}")
        assert one.finished
        assert one.record.name == "fusion_losses.json"

    def test_after_its_leader_has_data_of_its_own(self, tmp_path: Path) -> None:
        """Each fold and seed has other fused images; those of a rule are the same for all."""
        row = Row("didfuse", source=("leader", "didfuse"))
        alike = replace(trial(tmp_path, seed=3), row=row)
        after = alike.after_its_leader(Budget(7, 8, 9))
        assert alike.data == tmp_path / "data" / "didfuse" / "Dataset990_Phantom"
        assert after.data == tmp_path / "data" / "didfuse_fold1_seed3" / "Dataset990_Phantom"
        assert after.place == alike.place

    def test_before_it_is_the_leader_s_training(self, tmp_path: Path) -> None:
        row = Row("didfuse", source=("leader", "didfuse"))
        first = replace(trial(tmp_path, seed=3), row=row).after_its_leader(Budget(7, 8, 9)).first
        assert first.row == Row("didfuse.alone", ours=True, recipe="didfuse")
        assert (first.fold, first.seed, first.budget) == (1, 3, Budget(7, 8, 9))
        assert first.place == tmp_path / "fusions" / "didfuse.alone" / "fold1_seed3"
        assert first.data == tmp_path / "data" / "didfuse.alone" / "Dataset990_Phantom"
        assert first.model.name == "Fuse4SegTrainer__Fuse4SegPlans__2d"

    def test_before_an_image_is_the_training_of_the_row_that_exports_it(self, tmp_path: Path) -> None:
        row = Row("grey_image", source=("image", "grey"))
        first = replace(trial(tmp_path, seed=3), row=row).after_its_leader(Budget(3, 4, 2)).first
        assert first == replace(trial(tmp_path, seed=3), row=OWN["grey"])
        assert first.place == tmp_path / "trainings" / "grey" / "fold1_seed3"

    def test_has_a_place_of_its_own(self, tmp_path: Path) -> None:
        places = {trial(tmp_path, name, seed=seed).place for name in ("a", "b") for seed in (0, 1)}
        assert len(places) == 4


class Processes:
    """Stands in for subprocess.Popen; notes what runs when, on which device."""

    def __init__(self, status: dict[str, int] | None = None) -> None:
        self.status, self.devices, self.now, self.most, self.lock = status or {}, [], 0, 0, threading.Lock()

    def __call__(self, words: list[str], *, env: dict[str, str], **_: Any) -> SimpleNamespace:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.devices.append((words[words.index("-device") + 1], env.get("CUDA_VISIBLE_DEVICES")))
        return SimpleNamespace(wait=lambda: self.wait(env["nnUNet_results"]))

    def wait(self, results: str) -> int:
        time.sleep(0.05)
        with self.lock:
            self.now -= 1
        return next((code for name, code in self.status.items() if name in results), 0)


class TestRunTrials:
    def test_runs_what_is_not_finished(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(subprocess, "Popen", processes := Processes())
        trials = [trial(tmp_path, name) for name in ("a", "b", "c")]
        finish(trials[1])
        assert run_trials(trials, devices=["cpu"]) == []
        assert processes.devices == [("cpu", None)] * 2

    def test_runs_one_at_a_time_on_each_device(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(subprocess, "Popen", processes := Processes())
        run_trials([trial(tmp_path, seed=seed) for seed in range(6)], devices=["cuda:0", "cuda:3"])
        assert processes.most == 2
        assert set(processes.devices) == {("cuda", "0"), ("cuda", "3")}

    def test_does_the_others_where_one_fails_and_says_why(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(subprocess, "Popen", Processes({"/b/": 1}))
        trials = [trial(tmp_path, name) for name in ("a", "b", "c")]
        trials[1].place.mkdir(parents=True)
        (trials[1].place / "log.txt").write_text("training\nerror: the GPU is full.\n")
        faults = run_trials(trials, devices=["cpu"])
        assert len(faults) == 1
        assert faults[0].startswith("b, fold 1, seed 0: error: the GPU is full. (")

