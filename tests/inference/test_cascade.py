"""Cascades: the previous stage is found beside its successor, with the same folds where they are trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fuse4seg.errors import FolderNotFoundError, OptionError, PreviousStageNotFoundError
from fuse4seg.inference.cascade import find_previous_stage
from fuse4seg.inference.model import load_model
from fuse4seg.inference.models import FINAL, TrainedModel

FIRST, SECOND = "Fuse4SegTrainer__Fuse4SegPlans__3d_lowres", "Fuse4SegTrainer__Fuse4SegPlans__3d_cascade_fullres"
Find = Callable[..., "TrainedModel | Path | None"]


@pytest.fixture
def models(untrained_cascade: Path, tmp_path: Path) -> Path:
    """Both stages, folds 0 and 1, for this test to change."""
    return Path(shutil.copytree(untrained_cascade / "nnUNet_results" / "Dataset990_Phantom", tmp_path / "models"))


@pytest.fixture
def find(models: Path) -> Find:
    def run(*folds: int | str, name: str = SECOND, checkpoint: str = FINAL, given: Path | None = None) -> object:
        loaded = load_model(models / name, folds=folds, checkpoint=checkpoint, device=torch.device("cpu"))
        return find_previous_stage(TrainedModel(models / name, folds, checkpoint), loaded, given=given, output=models / "out")

    return run


class TestFindPreviousStage:
    def test_takes_the_same_folds(self, find: Find, models: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert find(1) == TrainedModel(models / FIRST, (1,))
        assert find(0, 1) == TrainedModel(models / FIRST, (0, 1))
        assert "not trained on the same folds" not in caplog.text

    def test_takes_those_of_the_same_folds_that_are_trained(self, find: Find, models: Path,
                                                            caplog: pytest.LogCaptureFixture) -> None:
        shutil.rmtree(models / FIRST / "fold_0")
        assert find(0, 1) == TrainedModel(models / FIRST, (1,))
        assert "3d_lowres is not trained on the same folds as the stage after it (0, 1)" in caplog.text

    def test_takes_all_of_its_folds_where_none_is_the_same(self, find: Find, models: Path) -> None:
        (models / SECOND / "fold_1").rename(models / SECOND / "fold_all")
        assert find("all") == TrainedModel(models / FIRST, (0, 1))

    def test_takes_the_same_checkpoint_or_the_final_one(self, find: Find, models: Path) -> None:
        shutil.copy(models / SECOND / "fold_0" / FINAL, models / SECOND / "fold_0" / "checkpoint_best.pth")
        assert find(0, checkpoint="checkpoint_best.pth") == TrainedModel(models / FIRST, (0,), FINAL)
        shutil.copy(models / FIRST / "fold_0" / FINAL, models / FIRST / "fold_0" / "checkpoint_best.pth")
        assert find(0, checkpoint="checkpoint_best.pth") == TrainedModel(models / FIRST, (0,), "checkpoint_best.pth")

    def test_takes_the_folder_that_is_given(self, find: Find, models: Path, tmp_path: Path) -> None:
        shutil.rmtree(models / FIRST)
        assert find(0, given=tmp_path) == tmp_path

    def test_refuses_a_folder_that_is_none(self, find: Find, tmp_path: Path) -> None:
        with pytest.raises(FolderNotFoundError, match="nowhere is not a folder"):
            find(0, given=tmp_path / "nowhere")

    def test_refuses_the_folder_that_is_predicted_into(self, find: Find, models: Path) -> None:
        (models / "out").mkdir()
        with pytest.raises(OptionError, match=r"out is the output folder, where they would be replaced\. Give another"):
            find(0, given=models / "." / "out" / ".." / "out")

    def test_refuses_one_that_is_not_trained(self, find: Find, models: Path) -> None:
        for path in (models / FIRST).glob(f"fold_*/{FINAL}"):
            path.unlink()
        with pytest.raises(PreviousStageNotFoundError, match=f"{models / SECOND} is a later stage of a cascade, and the stage "
                                                             f"before it is not trained: expected {models / FIRST}. Train it"):
            find(0)

    def test_refuses_a_stage_that_is_a_later_one_itself(self, find: Find, models: Path) -> None:
        for folder in (models / SECOND, models / SECOND / "fold_0"):
            self.chain(folder)
        with pytest.raises(OptionError, match="3d_lowres, the stage before, is itself a later stage"):
            find(0)

    @staticmethod
    def chain(folder: Path) -> None:
        """Make the first stage, in the plans and in the checkpoint's copy of them, have a previous one."""
        if (folder / FINAL).is_file():
            state = torch.load(folder / FINAL, weights_only=True)
            state["init_args"]["plans"]["configurations"]["3d_lowres"]["previous_stage"] = "3d_fullres"
            torch.save(state, folder / FINAL)
            return
        plans = json.loads((folder / "plans.json").read_text())
        plans["configurations"]["3d_lowres"]["previous_stage"] = "3d_fullres"
        (folder / "plans.json").write_text(json.dumps(plans))

    def test_finds_none_where_there_is_none(self, find: Find) -> None:
        assert find(0, name=FIRST) is None

    def test_refuses_segmentations_for_a_model_that_takes_none(self, find: Find, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match=f"-prev_stage_predictions: .*{FIRST} is no later stage of a cascade"):
            find(0, name=FIRST, given=tmp_path)
