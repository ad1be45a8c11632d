"""The model that a fine-tuning begins with: which one is meant, and that its file runs nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuse4seg.errors import OptionError
from fuse4seg.model_errors import CheckpointError, CheckpointNotFoundError
from fuse4seg.training.origin import find_origin, read_origin, require_beginning

DATASET_JSON = {"channel_names": {"1": "FLAIR", "0": "T1"}, "labels": {"background": 0, "oedema": 1, "ignore": 2}}
PLANS = {"dataset_name": "Dataset501_BraTS", "configurations": {
    "2d": {}, "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}, "3d_fullres": {},
    "3d_small": {"inherits_from": "3d_cascade_fullres"}, "2d_small": {"inherits_from": "2d"}, "odd": {"inherits_from": "odd"}}}
Saved = Callable[..., Path]


class RunsCode:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Function that writes a checkpoint as stock nnU-Net's trainer does, with changed entries, and returns its path."""
    def save(configuration: str = "2d", **changed: Any) -> Path:
        state = {"network_weights": {"encoder.weight": torch.arange(4.0).view(1, 1, 2, 2)}, "_best_ema": np.float64(0.5),
                 "logging": {"mean_fg_dice": [np.float64(0.1), np.float32(0.2)], "a": np.arange(3.0)},
                 "init_args": {"plans": PLANS, "configuration": configuration, "fold": 0, "dataset_json": DATASET_JSON,
                               "device": torch.device("cpu")},
                 "trainer_name": "nnUNetTrainer"}
        torch.save({**state, **changed}, tmp_path / "stock.pth")
        return tmp_path / "stock.pth"

    return save


class TestReading:
    def test_of_stock_nnunet_leaves_numpy_s_numbers_out(self, saved: Saved) -> None:
        origin = read_origin(saved())
        assert origin.weights["segmentation.encoder.weight"].flatten().tolist() == [0, 1, 2, 3]
        assert (origin.modalities, origin.axes, origin.extra, origin.is_ours, origin.segments) == (("T1", "FLAIR"), 2, 0, False,
                                                                                                  True)
        assert origin.labels.rows == {"background": 0, "oedema": 1}
        assert (origin.dataset, origin.fold) == ("Dataset501_BraTS", 0)

    @pytest.mark.parametrize(("configuration", "extra"), [("3d_cascade_fullres", 1), ("3d_small", 1), ("2d_small", 0)])
    def test_of_a_cascade_s_second_stage_knows_its_labels(self, saved: Saved, configuration: str, extra: int) -> None:
        assert read_origin(saved(configuration)).extra == extra

    def test_of_our_own_has_all_parts(self, trained_model: Path) -> None:
        path = trained_model / "fold_0" / "checkpoint_final.pth"
        origin = read_origin(path)
        assert {name.split(".")[0] for name in origin.weights} == {"fusion", "segmentation", "auxiliary_head", "discriminators"}
        assert origin.is_ours
        assert origin.record["model"] == f"Dataset990_Phantom/{trained_model.name}/fold_0/checkpoint_final.pth"
        assert len(origin.record["sha256"]) == 64

    def test_knows_our_network_by_its_weights(self, saved: Saved) -> None:
        """nnU-Net's own trainer, too, can train it, and writes no recipe."""
        names = ["fusion.stem.weight", "segmentation.head.bias"]
        origin = read_origin(saved(network_weights={name: torch.ones(1) for name in names}))
        assert origin.is_ours
        assert list(origin.weights) == names

    def test_names_a_file_that_lies_by_itself_by_its_name_alone(self, saved: Saved) -> None:
        assert read_origin(saved()).record["model"] == "stock.pth"

    @pytest.mark.parametrize("hidden", [lambda code: code, lambda code: np.array([code], dtype=object),
                                        lambda code: {"encoder.weight": code}])
    def test_runs_no_code(self, saved: Saved, tmp_path: Path, hidden: Callable[[RunsCode], Any]) -> None:
        path = saved(logging=hidden(RunsCode(tmp_path / "ran")))
        with pytest.raises(CheckpointError, match="stock.pth: damaged, or not plain data") as caught:
            read_origin(path)
        assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(("changed", "said"), [
        ({"network_weights": None}, "holds no network_weights. Give a checkpoint of f4s_train's stage 2"),
        ({"init_args": {}}, "does not say what it was trained with"), ({"init_args": None}, "does not say what"),
        ({"init_args": {"plans": PLANS, "configuration": "2d", "dataset_json": {"labels": {"a": "b"}}}}, "does not say what"),
        *(({"init_args": {"plans": PLANS, "configuration": name, "dataset_json": DATASET_JSON, "fold": 0}}, "does not say what")
          for name in ("3d", "odd")),
        ({"network_weights": {3: torch.ones(1)}}, "does not say what it was trained with"),
        ({"discriminators": [1]}, "does not say what it was trained with")])
    def test_of_what_is_no_model_is_refused(self, saved: Saved, changed: dict[str, Any], said: str) -> None:
        with pytest.raises(CheckpointError, match=f"stock.pth: {said}"):
            read_origin(saved(**changed))

    def test_passes_weights_over_that_cannot_be_copied(self, saved: Saved) -> None:
        odd = {"sparse": torch.eye(2).to_sparse(), "complex": torch.ones(1, dtype=torch.complex64), "text": "x",
               "nowhere": torch.empty(1, device="meta"), "plain": torch.ones(1)}
        assert list(read_origin(saved(network_weights=odd)).weights) == ["segmentation.plain"]

    def test_of_nothing_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointNotFoundError, match="none.pth does not exist. Check the path."):
            read_origin(tmp_path / "none.pth")


class TestFinding:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Callable[..., Path]:
        """Function that makes a model's folder with checkpoints of folds."""
        def make(*folds: str) -> Path:
            for fold in folds:
                (tmp_path / "model" / f"fold_{fold}").mkdir(parents=True)
                (tmp_path / "model" / f"fold_{fold}" / "checkpoint_final.pth").touch()
            return tmp_path / "model"

        return make

    @pytest.mark.parametrize(("folds", "fold", "found"), [(["0", "1"], 1, "1"), (["3"], 0, "3"), (["all"], "all", "all"),
                                                          (["0", "all"], 0, "0")])
    def test_takes_the_same_fold_or_the_only_one(self, model: Callable[..., Path], folds: list[str], fold: int | str,
                                                 found: str) -> None:
        folder = model(*folds)
        assert find_origin(folder, fold=fold) == folder / f"fold_{found}" / "checkpoint_final.pth"

    def test_of_several_others_asks_for_one(self, model: Callable[..., Path]) -> None:
        folder = model("1", "2")
        with pytest.raises(OptionError, match="-pretrained_weights: .*model has no fold_0, but fold_1, fold_2. Name one of their "
                                              "checkpoints, as .*fold_1/checkpoint_final.pth"):
            find_origin(folder, fold=0)

    def test_takes_a_checkpoint_as_it_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "mine.pth").touch()
        assert find_origin(tmp_path / "mine.pth", fold=0) == tmp_path / "mine.pth"

    @pytest.mark.parametrize(("name", "said"), [("none", "none is neither: check the path"), ("a.txt", "a.txt is neither"),
                                                ("model.zip", "model.zip is an archive: install it with f4s_install_model"),
                                                (".", "holds no fold_.*checkpoint_final.pth. Give the folder TRAINER__PLANS")])
    def test_of_anything_else_says_what_to_give(self, tmp_path: Path, name: str, said: str) -> None:
        for file in ("a.txt", "model.zip"):
            (tmp_path / file).touch()
        with pytest.raises(OptionError, match=f"-pretrained_weights: .*{said}"):
            find_origin(tmp_path / name, fold=0)


class TestBeginning:
    @pytest.mark.parametrize(("resume", "said"), [(True, "--c"), (False, "--val")])
    def test_is_no_going_on(self, resume: bool, said: str) -> None:
        with pytest.raises(OptionError, match=f"-pretrained_weights: is for a new training, and {said} for one that has begun."):
            require_beginning(resume=resume, validate_only=not resume)

    def test_is_not_after_a_stage_1_without_it(self, tmp_path: Path) -> None:
        require_beginning([tmp_path / "pretrained.pth"], resume=False, validate_only=False)
        (tmp_path / "pretrained.pth").touch()
        with pytest.raises(OptionError, match="comes too late: .*pretrained.pth is of a stage 1 that began without it. Remove"):
            require_beginning([tmp_path / "pretrained.pth"], resume=False, validate_only=False)
