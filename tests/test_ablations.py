"""Every variant of the method that a user can choose, by the commands: planned, hardly trained, and predicted with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from fuse4seg.cli import plan_experiment, predict, train
from fuse4seg.comparison.rows import ABLATIONS

pytestmark = pytest.mark.slow
DATASET = "Dataset990_Phantom"
SMALL = ["-gpu_memory_target", "0.2", "-overwrite_plans_name", "Fuse4SegPlans", "--set", "follower.features=8",
         "patches.largest_batch=4", "pretraining.epochs=1", "training.epochs=1", "training.iterations=1"]


def run(root: Path, *changes: str, recipe: str = "fuse4seg") -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Plans, checkpoint and predictions of a hardly trained variant."""
    at = ["--root", str(root)]
    assert plan_experiment.main(["-d", "990", *SMALL, *changes, "--recipe", recipe, *at]) == 0
    assert train.main(["990", "2d", "0", "-device", "cpu", *at]) == 0
    images = root / "nnUNet_raw" / DATASET / "imagesTs"
    assert predict.main(["-i", str(images), "-o", str(root / "out"), "--disable_tta", "--save_attention", "-device", "cpu",
                         *at]) == 0
    model = root / "nnUNet_results" / DATASET / "Fuse4SegTrainer__Fuse4SegPlans__2d"
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=True)
    return json.loads((model / "plans.json").read_text()), checkpoint, root / "out"


@pytest.fixture
def root(planned_phantom: Path, tmp_path: Path) -> Path:
    """Roots of this test's own, preprocessed; nothing is trained."""
    shutil.copytree(planned_phantom, tmp_path / "root")
    return tmp_path / "root"


def first_convolution(checkpoint: dict[str, Any]) -> torch.Tensor:
    return next(weight for name, weight in checkpoint["network_weights"].items()
                if name.startswith("segmentation.encoder") and weight.ndim == 4)


@pytest.mark.parametrize(("recipe", "channels"), [("fuse4seg", 3), ("grey", 1)])
def test_the_fused_image_is_as_planned_and_all_that_the_follower_sees(root: Path, recipe: str, channels: int) -> None:
    plans, checkpoint, output = run(root, recipe=recipe)
    assert plans["fuse4seg"]["recipe"]["leader"]["fused_image"] == {3: "colour", 1: "grey"}[channels]
    assert first_convolution(checkpoint).shape[1] == channels
    (fused,) = (output / "fused").glob("*.nii.gz")
    assert sitk.ReadImage(fused).GetNumberOfComponentsPerPixel() == channels
    assert (output / "fused" / "grey").is_dir() == (channels == 3)
    assert predict.main(["-i", str(output / "fused"), "-o", str(root / "again"), "--disable_tta", "-device", "cpu",
                         "--from_fused", "--root", str(root)]) == 0
    found, wanted = (sitk.GetArrayFromImage(sitk.ReadImage(folder / fused.name)) for folder in (root / "again", output))
    np.testing.assert_array_equal(found, wanted)


def test_the_cross_attention_is_left_out_by_default(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans, checkpoint, output = run(root)
    assert plans["fuse4seg"]["recipe"]["leader"]["cross_attention"] is False
    assert not any("cross_attention" in name for name in checkpoint["network_weights"])
    assert "no cross-attention: there are no attention maps" in capsys.readouterr().err
    assert not (output / "attention").exists()


def test_another_modality_can_be_the_reference(root: Path) -> None:
    names = json.loads((root / "nnUNet_raw" / DATASET / "dataset.json").read_text())["channel_names"]
    plans, _, output = run(root, "leader.cross_attention=true", f"leader.reference={names['1']}")
    looked_at = {path.name.removesuffix(".nii.gz").split("_", 2)[-1] for path in (output / "attention").iterdir()}
    assert looked_at == set(names.values()) - {names["1"]}
    assert plans["fuse4seg"]["recipe"]["leader"]["reference"] == names["1"]
    assert plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["leader"]["arch_kwargs"]["reference"] == 1


@pytest.mark.parametrize(("changes", "stage_1", "stage_2"), [
    (["pretraining.adversarial=0"], {"decomposition"}, {"edges", "balance", "scd", "chroma"}),
    (["losses.intensity=1", "losses.texture=5", "losses.decomposition=0.1", "losses.adversarial=0.01"],
     {"decomposition", "adversarial"},
     {"intensity", "texture", "decomposition", "adversarial", "edges", "balance", "scd", "chroma"}),
    (ABLATIONS["balance_alone"].changes, {"decomposition", "adversarial"}, {"balance"}),
    (["losses.texture=5", "losses.ssim=2", "pretraining.adversarial=0", "pretraining.decomposition=0"], set(),
     {"texture", "ssim", "edges", "balance", "scd", "chroma"})])
def test_losses_can_be_chosen_for_either_stage(root: Path, changes: list[str], stage_1: set[str], stage_2: set[str],
                                               capsys: pytest.CaptureFixture[str]) -> None:
    _, checkpoint, _ = run(root, *changes)
    recipe = checkpoint["recipe"]
    assert {name for name in ("decomposition", "adversarial") if recipe["pretraining"][name]} == stage_1
    assert {name for name, weight in recipe["losses"].items() if weight} == stage_2
    logged = checkpoint["logging"]
    assert ("discriminator" in capsys.readouterr().err) == ("adversarial" in stage_1)
    for name in ("own", "intensity", "texture", "decomposition", "adversarial", "edges", "ssim", "balance", "vif",
                 "scd", "chroma"):
        assert (logged.get(name, [float("nan")])[-1] == pytest.approx(float("nan"), nan_ok=True)) == (name not in stage_2)


@pytest.mark.parametrize("estimator", ["joint", "none"])
def test_every_estimator_trains_and_says_so_in_the_checkpoint(root: Path, estimator: str) -> None:
    _, checkpoint, _ = run(root, "leader.cross_attention=true", f"bilevel.hypergradient={estimator}")
    assert checkpoint["recipe"]["bilevel"]["hypergradient"] == estimator


@pytest.mark.parametrize(("follower", "own", "part"), [
    ("resenc_m", [], "encoder.stem."), ("cnn_transformer", ["follower.blocks=4"], "transformer.blocks.3.adapter.")])
def test_another_network_can_follow(root: Path, follower: str, own: list[str], part: str) -> None:
    plans, checkpoint, output = run(root, f"follower.network={follower}", *own)
    assert plans["fuse4seg"]["recipe"]["follower"]["network"] == follower
    assert any(name.startswith(f"segmentation.{part}") for name in checkpoint["network_weights"])
    assert all(bool(torch.isfinite(weight).all()) for weight in checkpoint["network_weights"].values())
    (fused,) = (output / "fused").glob("*.nii.gz")
    assert sitk.ReadImage(output / fused.name).GetSize() == sitk.ReadImage(fused).GetSize()
