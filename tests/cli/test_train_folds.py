"""f4s_train with several folds: side by side, logs apart, and one that fails leaves the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fuse4seg.cli import train
from fuse4seg.training.run import Training

CHANGES = ("pretraining.epochs=0", "training.epochs=1", "training.iterations=1")
MODEL = Path("nnUNet_results", "Dataset990_Phantom", Training("990", "2d", 0, changes=CHANGES).folder_name)


@pytest.fixture
def root(planned_phantom: Path, tmp_path: Path) -> Path:
    """Roots of this test's own."""
    shutil.copytree(planned_phantom, tmp_path / "root")
    return tmp_path / "root"


def words(root: Path, *folds: str) -> list[str]:
    return ["990", "2d", *folds, "--root", str(root), "--set", *CHANGES]


class TestSeveralFolds:
    def test_are_what_each_is_by_itself_and_one_that_fails_leaves_the_others(self, root: Path, tmp_path: Path,
                                                                            capsys: pytest.CaptureFixture[str]) -> None:
        (root / MODEL / "fold_1").mkdir(parents=True)
        (root / MODEL / "fold_1" / "checkpoint_final.pth").touch()  # an earlier training, in the way
        assert train.main([*words(root, "0", "1"), "--devices", "cpu", "cpu"]) == 1
        said = capsys.readouterr().err.splitlines()
        folder = root / MODEL
        dice = json.loads((folder / "fold_0" / "validation" / "summary.json").read_text())["foreground_mean"]["Dice"]
        assert f"fold 0: Mean Validation Dice: {dice:.4f} ({folder / 'fold_0.log'})" in said
        assert said[-2].startswith(f"error: fold 1: error: {folder / 'fold_1'} already holds a training.")
        assert said[-1] == "1 training(s), listed above, failed. Mend the cause, and train these folds again with --c."
        shutil.copytree(root, tmp_path / "alone", ignore=shutil.ignore_patterns("fold_*"))
        assert train.main([*words(tmp_path / "alone", "0"), "-device", "cpu"]) == 0
        alone = tmp_path / "alone" / MODEL / "fold_0" / "validation" / "summary.json"
        assert json.loads(alone.read_text())["foreground_mean"]["Dice"] == dice

    def test_begin_with_the_model_that_is_named(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert train.main([*words(root, "0"), "--devices", "cpu", "-pretrained_weights", "none.pth"]) == 1
        said = capsys.readouterr().err
        assert "fold 0: error: -pretrained_weights: takes a checkpoint (.pth) or a model's folder, and none.pth" in said

    @pytest.mark.parametrize(("folds", "flags", "said"), [
        (["0", "0"], [], "error: fold: 0 0 names one twice. Give each once."),
        (["0", "1"], ["--devices", "disk"], "error: --devices: disk is no device. Name cpu, mps, cuda, or cuda:0, cuda:1, ..."),
        (["0"], ["--devices", "cpu", "-device", "cpu"], "error: --devices: says where to compute. Leave out -device.")])
    def test_are_refused_before_anything_is_written(self, root: Path, folds: list[str], flags: list[str], said: str,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
        assert train.main([*words(root, *folds), *flags]) == 1
        assert capsys.readouterr().err.splitlines() == [said]
        assert not (root / MODEL).exists()
