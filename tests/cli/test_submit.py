"""f4s_submit: an element per fold or part, checked words, and a training that is stopped and goes on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from fuse4seg.cli.submit import main
from fuse4seg.training.run import Training
from tests.test_slurm import COMMANDS, SBATCH

CHANGES = ("pretraining.epochs=0", "training.epochs=12", "training.iterations=1")


def written(folder: Path, name: str) -> list[str]:
    """What each element runs, without the words that start Python."""
    lines = [line for line in (folder / f"{name}.sh").read_text().splitlines() if " words=(" in line]
    return [line.partition("main())' ")[2].removesuffix(");;") for line in lines]


class TestElements:
    def test_of_a_training_are_its_folds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        assert main(["-o", str(tmp_path), "--sbatch", "gres=gpu:1", "--", "f4s_train", "501", "2d", "0", "1", "all",
                     "--seed", "3", "--set", "training.epochs=5", "losses.edges=4"]) == 0
        assert written(tmp_path, "f4s_train") == [f"501 2d {fold} --seed 3 --set training.epochs=5 losses.edges=4"
                                                  for fold in ("0", "1", "all")]
        text = (tmp_path / "f4s_train.sh").read_text()
        assert "then words+=(--c); else words+=(); fi" in text
        assert "#SBATCH --gres=gpu:1\n" in text

    def test_begin_with_a_model_only_the_first_time(self, tmp_path: Path) -> None:
        command = ["f4s_train", "501", "2d", "0", "-pretrained_weights", "my model"]
        assert main(["-o", str(tmp_path), "--only_write", "--", *command]) == 0
        assert written(tmp_path, "f4s_train") == ["501 2d 0"]
        assert "then words+=(--c); else words+=(-pretrained_weights 'my model'); fi" in (tmp_path / "f4s_train.sh").read_text()

    def test_of_a_prediction_are_its_parts(self, tmp_path: Path) -> None:
        command = ["f4s_predict", "-i", "in put", "-o", "out", "-num_parts", "2"]
        assert main(["-o", str(tmp_path), "--only_write", "--", *command]) == 0
        assert written(tmp_path, "f4s_predict") == [f"-i 'in put' -o out -num_parts 2{part}" for part in ("", " -part_id 1")]
        assert "words+=(--continue_prediction)" in (tmp_path / "f4s_predict.sh").read_text()

    @pytest.mark.parametrize("part", [["-part_id", "1"], ["-part_id=1"]])
    def test_of_one_part_that_is_named_is_that(self, part: list[str], tmp_path: Path) -> None:
        command = ["f4s_predict", "-i", "in", "-o", "out", "-num_parts", "2", *part]
        assert main(["-o", str(tmp_path), "--only_write", "--", *command]) == 0
        assert written(tmp_path, "f4s_predict") == ["-i in -o out -num_parts 2 -part_id 1"]

    def test_begin_anew_where_there_is_nothing_to_go_on_with(self, tmp_path: Path) -> None:
        assert main(["-o", str(tmp_path), "--only_write", "--", "f4s_predict", "-i", "fused", "-o", "out", "--from_fused"]) == 0
        assert "continue_prediction" not in (tmp_path / "f4s_predict.sh").read_text()

    def test_of_any_other_command_is_one(self, tmp_path: Path) -> None:
        assert main(["-o", str(tmp_path), "--only_write", "--", "f4s_preprocess", "-d", "501"]) == 0
        assert written(tmp_path, "f4s_preprocess") == ["-d 501"]


class TestRefusals:
    @pytest.mark.parametrize(("words", "said"), [
        (["--", "ls"], "error: command: is to be one of this tool, behind two dashes: -- f4s_train 501 2d 0 1 2 3 4."),
        ([], "error: command: is to be one of this tool, behind two dashes: -- f4s_train 501 2d 0 1 2 3 4."),
        (["--", "f4s_predict", "-i", "in", "-o", "out", "-num_parts", "2", "--report"],
         "error: -num_parts: cannot be had with --report, which is of all cases together. Leave one out."),
        (["--", "f4s_predict", "-i", "fused", "-o", "out", "--from_fused", "-num_parts", "2"],
         "error: -num_parts: cannot be had with --from_fused, which is of all cases together. Leave one out."),
        (["--sbatch", "array=3", "--", "f4s_train", "501", "2d", "0"], "error: --sbatch: 'array=3' is no option that can be "
                                                                       "chosen. Give long names, as time=24:00:00."),
        (["--sbatch", "a\nb=3", "--", "f4s_train", "501", "2d", "0"], "error: --sbatch: 'a\\nb=3' is no option that can be "
                                                                      "chosen. Give long names, as time=24:00:00.")])
    def test_say_what_to_do(self, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["-o", str(tmp_path / "jobs"), *words]) == 1
        assert capsys.readouterr().err.splitlines() == [said]
        assert not (tmp_path / "jobs").exists()

    def test_of_words_that_the_command_does_not_understand(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit):
            main(["-o", str(tmp_path / "jobs"), "--", "f4s_train", "501", "2d", "0", "--epocs", "3"])
        assert not (tmp_path / "jobs").exists()


def test_a_training_that_is_stopped_goes_on(planned_phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, place = tmp_path / "root", tmp_path / "slurm"
    shutil.copytree(planned_phantom, root)
    fold = root / "nnUNet_results" / "Dataset990_Phantom" / Training("990", "2d", 0, changes=CHANGES).folder_name / "fold_0"
    place.mkdir()
    # Asks the command to stop once it has saved, the first time.
    srun = f"""[ -n "$SLURM_RESTART_COUNT" ] && exec "$@"
"$@" & while [ ! -e '{fold}/checkpoint_latest.pth' ]; do sleep 0.05; done; kill -TERM $!; wait $!"""
    for name, text in {"sbatch": SBATCH.format(python=sys.executable),
                       **{name: f"#!/bin/bash\n{words}\n" for name, words in {**COMMANDS, "srun": srun}.items()}}.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    assert main(["-o", str(tmp_path / "jobs"), "--", "f4s_train", "990", "2d", "0", "-device", "cpu", "--root", str(root),
                 "--set", *CHANGES]) == 0
    assert (place / "statuses").read_text() == "0 143\n0 0\n"
    assert json.loads((fold / "validation" / "summary.json").read_text())["foreground_mean"]["Dice"] >= 0
