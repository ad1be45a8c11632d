"""f4s_plan_experiment and f4s_extract_fingerprint: one line for a dataset that cannot be planned."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse4seg.cli import extract_fingerprint, plan_experiment


@pytest.mark.parametrize("command", [extract_fingerprint.main, plan_experiment.main])
class TestPlanningCommands:
    def test_name_a_missing_dataset_json(self, command: Callable[..., int], tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "nnUNet_raw" / "Dataset042_Empty"
        folder.mkdir(parents=True)
        assert command(["-d", "42", "--root", str(tmp_path)]) == 1
        assert f"error: {folder / 'dataset.json'}: is missing" in capsys.readouterr().err

    def test_name_a_dataset_that_is_not_there(self, command: Callable[..., int], tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "nnUNet_raw").mkdir()
        assert command(["-d", "43", "--root", str(tmp_path)]) == 1
        assert "error: no dataset 43" in capsys.readouterr().err

    def test_leave_nothing_behind(self, command: Callable[..., int], tmp_path: Path) -> None:
        (tmp_path / "nnUNet_raw" / "Dataset042_Empty").mkdir(parents=True)
        command(["-d", "42", "--root", str(tmp_path)])
        assert not (tmp_path / "nnUNet_preprocessed").exists()


class TestTable:
    def test_prints_every_size_and_leaves_the_plans_as_they_are(self, planned_phantom: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
        plans, = (planned_phantom / "nnUNet_preprocessed").glob("*/Fuse4SegPlans.json")
        before = plans.read_bytes()
        assert plan_experiment.main(["-d", "990", "--table", "--base_features", "8"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines if " 2d " in line] == ["4", "8", "11", "16", "24", "40", "80", "141"]
        assert plans.read_bytes() == before

    def test_does_not_go_with_one_size(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert plan_experiment.main(["-d", "990", "--table", "-gpu_memory_target", "4"]) == 1
        assert "error: -gpu_memory_target: --table shows all sizes" in capsys.readouterr().err

    def test_names_an_estimator_that_is_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert plan_experiment.main(["-d", "990", "--root", str(tmp_path), "--hypergradient", "newton"]) == 1
        assert "--hypergradient: there is no 'newton'" in capsys.readouterr().err

    def test_names_a_size_that_is_no_number(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            plan_experiment.main(["-d", "990", "-gpu_memory_target", "much"])
        assert "invalid memory_target value: 'much'" in capsys.readouterr().err

    def test_auto_is_the_default(self) -> None:
        assert plan_experiment.memory_target("auto") is None
        assert plan_experiment.memory_target("7.5") == 7.5


class TestCrossAttention:
    @pytest.mark.parametrize(("words", "wanted"), [([], None), (["--cross_attention"], True), (["--no_cross_attention"], False)])
    def test_is_as_the_flags_say_and_else_left_to_the_planner(self, words: list[str], wanted: bool | None) -> None:
        assert plan_experiment.plan_options(self.parser().parse_args(words)).cross_attention is wanted

    def test_is_not_wanted_and_unwanted_at_once(self) -> None:
        with pytest.raises(SystemExit, match="2"):
            self.parser().parse_args(["--cross_attention", "--no_cross_attention"])

    @staticmethod
    def parser() -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser()
        plan_experiment.add_plan_flags(parser)
        return parser
