"""f4s_plan_experiment and f4s_extract_fingerprint: one line for a dataset that cannot be planned."""

from __future__ import annotations

import argparse
import json
import shutil
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
        assert plan_experiment.main(["-d", "990", "--table", "--set", "follower.features=8"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines if " 2d " in line] == ["4", "8", "11", "16", "24", "40", "80", "141"]
        assert plans.read_bytes() == before

    def test_does_not_go_with_one_size(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert plan_experiment.main(["-d", "990", "--table", "-gpu_memory_target", "4"]) == 1
        assert "error: -gpu_memory_target: --table shows all sizes" in capsys.readouterr().err

    def test_names_an_estimator_that_is_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert plan_experiment.main(["-d", "990", "--root", str(tmp_path), "--set", "bilevel.hypergradient=newton"]) == 1
        assert "--set: bilevel.hypergradient: there is no 'newton'" in capsys.readouterr().err

    def test_names_a_size_that_is_no_number(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            plan_experiment.main(["-d", "990", "-gpu_memory_target", "much"])
        assert "invalid memory_target value: 'much'" in capsys.readouterr().err

    def test_auto_is_the_default(self) -> None:
        assert plan_experiment.memory_target("auto") is None
        assert plan_experiment.memory_target("7.5") == 7.5


class TestRecipe:
    def test_and_its_changes_go_to_the_planner(self) -> None:
        parser = argparse.ArgumentParser()
        plan_experiment.add_dataset_flags(parser)
        plan_experiment.add_plan_flags(parser)
        words = ["-d", "501", "--allow_missing", "--recipe", "grey",
                 "--set", "losses.edges=4", "follower.features=8", "--set", "training.epochs=3"]
        chosen = plan_experiment.plan_options(parser.parse_args(words))
        assert (chosen.recipe, chosen.allow_missing) == ("grey", True)
        assert chosen.changes == ("losses.edges=4", "follower.features=8", "training.epochs=3")
        assert chosen.name == "Fuse4SegPlans-grey-follower.features=8-losses.edges=4-training.epochs=3"

    def test_in_a_file_of_the_users_own_is_written_into_the_plans(self, planned_phantom: Path, tmp_path: Path) -> None:
        root = shutil.copytree(planned_phantom, tmp_path / "root")
        (tmp_path / "mine.toml").write_text('about = "Mine."\nlike = "grey"\n[follower]\nfeatures = 8\n[losses]\nedges = 3.0\n')
        assert plan_experiment.main(["-d", "990", "--recipe", str(tmp_path / "mine.toml"), "--root", str(root)]) == 0
        plans = json.loads((root / "nnUNet_preprocessed" / "Dataset990_Phantom" / "Fuse4SegPlans-mine.json").read_text())
        recipe = plans["fuse4seg"]["recipe"]
        assert (recipe["name"], recipe["about"], recipe["losses"]["edges"], recipe["leader"]["fused_image"]) == (
            "mine", "Mine.", 3.0, "grey")

    @pytest.mark.parametrize(("content", "said"), [
        ('about = "Mine."', "mine.toml: leader: the section is missing"),
        ('about = "Mine."\nlike = "grey"\n[loses]\nedges = 1', "mine.toml: loses: there is no such section. Sections"),
        ('about = "Mine."\nlike = "grey"\n[losses]\nedge = 1', "mine.toml: losses.edge: there is no such entry. Ent"),
        ('about = "Mine."\nlike = "grey"\n[losses]\nedges = "x"', "mine.toml: losses.edges: 'x' is not a number"),
        ('about = "Mine."\nlike = "grey"\n[leader]\nnetwork = "unet"', "leader.network: there is no 'unet'. Choose from: "),
        ('like = "grey"\n[about]\nwhat = "no text"', "mine.toml: about: is missing, or no text"),
        ('about = "Mine."\nlike = "gray"', "mine.toml: like: there is no recipe 'gray'. Choose from: "),
        ("about = ", "mine.toml: its text: cannot be read")])
    def test_that_does_not_do_is_one_line(self, content: str, said: str, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "mine.toml").write_text(content)
        assert plan_experiment.main(["-d", "990", "--recipe", str(tmp_path / "mine.toml"), "--root", str(tmp_path)]) == 1
        line, = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert said in line
