"""A dataset without labels, by the commands: planned, trained on the fusion losses, resumed, and predicted with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from fuse4seg.cli import extract_fingerprint, plan_and_preprocess, plan_experiment, predict, preprocess, train
from fuse4seg.planning import fingerprint
from fuse4seg.planning.foreground import draw_foreground
from fuse4seg.training.epoch import Epoch
from fuse4seg.training.run import Training, make_trainer

DATASET = "Dataset990_Phantom"
MODEL = Path("nnUNet_results", DATASET, "Fuse4SegTrainer__Fuse4SegPlans__2d")
SMALL = ["-gpu_memory_target", "0.1", "-overwrite_plans_name", "Fuse4SegPlans", "--set", "follower.features=8",
         "patches.largest_batch=4", "pretraining.epochs=1", "training.epochs=2", "training.iterations=2"]


def run(command: Any, root: Path, *words: str) -> int:
    return command.main([*words, "--root", str(root)])


def load(root: Path, fold: str = "fold_0") -> dict[str, Any]:
    return torch.load(root / MODEL / fold / "checkpoint_final.pth", weights_only=True)


@pytest.fixture(scope="module")
def planned(phantom_roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Roots of the phantom dataset without its labels, preprocessed for 2d."""
    root = tmp_path_factory.mktemp("unlabelled") / "roots"
    shutil.copytree(phantom_roots / "nnUNet_raw", root / "nnUNet_raw")
    shutil.rmtree(root / "nnUNet_raw" / DATASET / "labelsTr")
    with pytest.MonkeyPatch.context() as patch:
        # nnU-Net's 10^8 draws take seconds, however small the dataset.
        patch.setattr(fingerprint, "draw_foreground", lambda images, segmentation, *, draws:
                      draw_foreground(images, segmentation, draws=min(draws, 1000)))
        assert run(extract_fingerprint, root, "-d", "990", "-np", "1") == 0
    assert run(plan_experiment, root, "-d", "990", *SMALL) == 0
    assert run(preprocess, root, "-d", "990", "-c", "2d", "-np", "1") == 0
    return root


@pytest.fixture(scope="module")
def trained(planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of ``planned`` with fold 0 hardly trained."""
    root = tmp_path_factory.mktemp("unlabelled_trained") / "roots"
    shutil.copytree(planned, root)
    assert run(train, root, "990", "2d", "0", "-device", "cpu") == 0
    return root


class TestPlanning:
    def test_records_that_there_is_nothing_to_segment(self, planned: Path) -> None:
        """The raw dataset.json lists labels all the same."""
        raw, ours = (json.loads((planned / kind / DATASET / "dataset.json").read_text())
                     for kind in ("nnUNet_raw", "nnUNet_preprocessed"))
        assert len(raw["labels"]) == 4
        assert ours == raw | {"labels": {"background": 0}}
        assert not (planned / "nnUNet_preprocessed" / DATASET / "gt_segmentations").exists()

    def test_is_grey_and_starts_near_the_maximum(self, planned: Path) -> None:
        plans = json.loads((planned / "nnUNet_preprocessed" / DATASET / "Fuse4SegPlans.json").read_text())
        leader = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["leader"]["arch_kwargs"]
        assert {name: leader[name] for name in ("colours", "brighter", "cross_attention")} == {
            "colours": 1, "brighter": 10.0, "cross_attention": True}

    def test_says_so_in_one_line(self, planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(planned, tmp_path / "roots")
        assert run(plan_and_preprocess, tmp_path / "roots", "-d", "990", *SMALL, "--no_pp", "-np", "1") == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "labelsTr" in line]
        assert said == [f"{DATASET} has no labelsTr: models trained on it fuse images and segment nothing. If it should have "
                        f"labels, add them and plan again."]

    def test_without_images_either_is_an_error(self, tmp_path: Path, phantom_roots: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "nnUNet_raw" / DATASET
        folder.mkdir(parents=True)
        shutil.copy(phantom_roots / "nnUNet_raw" / DATASET / "dataset.json", folder)
        assert run(plan_and_preprocess, tmp_path, "-d", "990") == 1
        assert capsys.readouterr().err == f"error: {folder / 'imagesTr'} is not a folder. Check the path.\n"


class TestTraining:
    def test_leaves_checkpoints_of_the_usual_make(self, trained: Path, trained_model: Path) -> None:
        usual = torch.load(trained_model / "fold_0" / "checkpoint_final.pth", weights_only=True)
        ours = load(trained)
        assert ours.keys() == usual.keys()
        assert ours["logging"].keys() == usual["logging"].keys()
        assert ours["network_weights"].keys() == usual["network_weights"].keys()
        assert {"checkpoint_best.pth", "checkpoint_final.pth", "pretrained.pth", "progress.png"} <= {
            path.name for path in (trained / MODEL / "fold_0").iterdir()}

    def test_moves_the_leader_and_leaves_the_follower_as_it_was(self, trained: Path) -> None:
        with mock.patch.dict(os.environ, {f"nnUNet_{kind}": str(trained / f"nnUNet_{kind}")
                                          for kind in ("raw", "preprocessed", "results")}):
            trainer = make_trainer(Training("990", "2d", "all", device="cpu"))
            trainer.initialize()
        weights = load(trained)["network_weights"]
        still = {name for name, weight in trainer.network.named_parameters() if torch.equal(weight, weights[name])}
        assert {name.split(".")[0] for name in still} == {"segmentation"}
        assert still == {name for name, _ in trainer.network.named_parameters() if name.startswith("segmentation")}

    def test_logs_fusion_losses_and_keeps_the_best_of_them(self, trained: Path) -> None:
        logged = load(trained)["logging"]
        assert np.isfinite(logged["fusion"]).all()
        assert logged["train_losses"] == logged["fusion"]
        assert np.isnan(logged["upper"]).all()
        assert logged["dice_per_class_or_region"] == [[], []]
        assert logged["mean_fg_dice"] == [-loss for loss in logged["val_losses"]]
        best = torch.load(trained / MODEL / "fold_0" / "checkpoint_best.pth", weights_only=True)
        assert best["current_epoch"] == 1 + int(np.argmax(logged["ema_fg_dice"]))

    def test_ends_with_the_fusion_losses_of_the_validation_cases(self, trained: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
        assert run(train, trained, "990", "2d", "0", "--val", "-device", "cpu") == 0
        said = capsys.readouterr().err
        assert "validation intensity loss: 0." in said
        assert "validation texture loss: 0." in said
        assert "Dice" not in said
        written = {path.name for path in (trained / MODEL / "fold_0" / "validation").iterdir()}
        assert written == {"fused", "fusion_losses.json", "report", "run.json"}

    def test_interrupted_and_resumed_repeats_bit_for_bit(self, planned: Path, trained: Path, tmp_path: Path) -> None:
        shutil.copytree(planned, tmp_path / "roots")
        undisturbed = Epoch.run

        def interrupted(epoch: Epoch, *arguments: Any, **options: Any) -> None:
            if (epoch.stage, epoch.number) == ("training", 1):
                raise KeyboardInterrupt
            undisturbed(epoch, *arguments, **options)

        with mock.patch.object(Epoch, "run", interrupted):
            assert run(train, tmp_path / "roots", "990", "2d", "0", "-device", "cpu") == 130
        assert run(train, tmp_path / "roots", "990", "2d", "0", "-device", "cpu", "--c") == 0
        found, wanted = load(tmp_path / "roots"), load(trained)
        for name, weight in wanted["network_weights"].items():
            assert torch.equal(found["network_weights"][name], weight), name
        assert found["logging"]["fusion"] == wanted["logging"]["fusion"]
        assert found["logging"]["val_losses"] == wanted["logging"]["val_losses"]

    @pytest.mark.parametrize(("change", "problem"), [
        ("bilevel.hypergradient=none", "bilevel.hypergradient: fusion_alone-"), ("leader.rate=0", "leader.rate: 0 leaves"),
        ("losses.edges=-1", "losses.edges: must be at least 0")])
    def test_refuses_changes_of_the_segmentation_and_those_that_leave_nothing_to_train(
            self, planned: Path, change: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
        flag = f"--set: {problem}"
        assert run(train, planned, "990", "2d", "0", "--set", change, "-device", "cpu") == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: {flag}")
        assert said.count("\n") == 1
        assert not (planned / "nnUNet_results").exists()


class TestPrediction:
    def test_writes_fused_images_and_no_segmentation(self, trained: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
        images = trained / "nnUNet_raw" / DATASET / "imagesTs"
        assert run(predict, trained, "-i", str(images), "-o", str(tmp_path / "out"), "-device", "cpu", "--save_attention",
                   "--save_panels") == 0
        written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
        assert written == {"dataset.json", "plans.json", "run.json", "f4s_outputs.json", "fused/phantom_005.nii.gz",
                           "panels/phantom_005.png",
                           *(f"attention/phantom_005_{name}.nii.gz" for name in ("T1ce", "T2", "FLAIR"))}
        fused, source = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in
                         (tmp_path / "out" / "fused" / "phantom_005.nii.gz", images / "phantom_005_0000.nii.gz"))
        assert fused.shape == source.shape
        assert fused.dtype == np.uint8
        assert fused.min() == 0
        assert fused.max() > 127
        assert capsys.readouterr().err.count("no segmentation") == 1

    def test_segments_no_fused_image_either(self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        images = trained / "nnUNet_raw" / DATASET / "imagesTs"
        assert run(predict, trained, "-i", str(images), "-o", str(tmp_path / "out"), "-device", "cpu", "--from_fused") == 1
        line, = capsys.readouterr().err.splitlines()
        assert line.startswith("error: --from_fused: this model was trained without labels: it segments nothing")
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_goes_in_3d_too(planned: Path, tmp_path: Path) -> None:
    root = tmp_path / "roots"
    shutil.copytree(planned, root)
    assert run(preprocess, root, "-d", "990", "-c", "3d_fullres", "-np", "1") == 0
    assert run(train, root, "990", "3d_fullres", "all", "-device", "cpu") == 0
    images = root / "nnUNet_raw" / DATASET / "imagesTs"
    assert run(predict, root, "-i", str(images), "-o", str(tmp_path / "out"), "-device", "cpu") == 0
    fused = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "fused" / "phantom_005.nii.gz")))
    assert fused.dtype == np.uint8
    assert fused.min() == 0
    assert fused.max() > 127
