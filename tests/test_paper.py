"""The paper's own system, from planning to prediction, by the usual three commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from fuse4seg.checkpoint import load_checkpoint
from fuse4seg.cli.plan_experiment import main as plan
from fuse4seg.cli.predict import main as predict
from fuse4seg.cli.train import main as train
from fuse4seg.inference.model import load_model

#: Everything else is the paper's: losses, stages, estimator, optimisers, the leader's and the follower's kind.
SMALL = ("leader.detail_features=8", "leader.base_features=8", "leader.couplings=1", "leader.transformers=1",
         "follower.features=8", "patches.size=48,40", "patches.batch=2", "pretraining.epochs=1", "training.epochs=1",
         "training.iterations=2")
PLANS = "Paper"


@pytest.fixture(scope="module")
def root(planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by the recipe, hardly, and predicted."""
    root = tmp_path_factory.mktemp("paper") / "roots"
    shutil.copytree(planned_phantom, root)
    here = ["--root", str(root)]
    assert plan(["-d", "990", "--recipe", "paper", "--set", *SMALL, "-overwrite_plans_name", PLANS, *here]) == 0
    assert train(["990", "2d", "0", "-p", PLANS, "-device", "cpu", *here]) == 0
    images = root / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    assert predict(["-i", str(images), "-o", str(root / "out"), "-d", "990", "-p", PLANS, "-c", "2d", "-f", "0", "-device", "cpu",
                    "--save_attention", *here]) == 0
    return root


@pytest.fixture(scope="module")
def model_folder(root: Path) -> Path:
    return root / "nnUNet_results" / "Dataset990_Phantom" / f"Fuse4SegTrainer__{PLANS}__2d"


def test_both_stages_move_all_that_the_paper_moves(model_folder: Path) -> None:
    first, final = (load_checkpoint(model_folder / "fold_0" / name) for name in ("pretrained.pth", "checkpoint_final.pth"))
    # Paint and decoder are pre-trained by reconstruction, and go on as what paints the fused image.
    names = [name for name in first["fusion"] if name.startswith("decoder.")]
    assert len(names) > 4
    assert all(not torch.equal(first["fusion"][name], final["network_weights"][f"fusion.{name}"]) for name in names)
    assert any(not torch.equal(value, final["discriminators"][name]) for name, value in first["discriminators"].items())
    logged = final["logging"]
    for entry in ("texture", "decomposition", "adversarial", "discriminator", "ratio", "upper", "lower"):
        assert np.isfinite(logged[entry]).all(), entry
    for entry in ("intensity", "edges", "ssim", "auxiliary", "own"):
        assert np.isnan(logged[entry]).all(), entry


def test_what_is_exported_is_the_decoder_s_image(root: Path, model_folder: Path) -> None:
    """One channel, no gate: a leader without its last layer's weights paints one grey everywhere inside."""
    (exported,) = (root / "out" / "fused").glob("*.nii.gz")
    levels = sitk.GetArrayFromImage(sitk.ReadImage(str(exported)))
    assert levels.ndim == 3
    assert len(np.unique(levels)) > 8
    network = next(load_model(model_folder, folds=(0,), device=torch.device("cpu"), mirroring=False).with_each_weights())
    torch.nn.init.zeros_(network.fusion.decoder.paint.weight)
    torch.nn.init.zeros_(network.fusion.decoder.paint.bias)
    image = network.fuse(torch.randn(1, 4, 48, 40)).fused.image
    assert image.shape == (1, 1, 48, 40)
    assert image.unique().tolist() == [pytest.approx(128 / 255)]


def test_segments_and_shows_where_the_reference_looked(root: Path) -> None:
    labels = json.loads((root / "out" / "dataset.json").read_text())["labels"]
    (segmentation,) = (root / "out").glob("*.nii.gz")
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(segmentation))))) <= set(labels.values())
    assert len(list((root / "out" / "attention").glob("*.nii.gz"))) == 3


def test_memory_cuts_what_does_not_fit_and_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-d", "990", "--recipe", "paper", "-overwrite_plans_name", "Cut", "-gpu_memory_target", "1", "--root", str(root)]
    assert plan(words) == 0
    said = capsys.readouterr().err
    plans = json.loads((root / "nnUNet_preprocessed" / "Dataset990_Phantom" / "Cut.json").read_text())
    patch, batch = (plans["configurations"]["2d"][entry] for entry in ("patch_size", "batch_size"))
    assert np.prod(patch) < 224**2
    assert f"patch 224 x 224 of recipe paper is cut to {patch[0]} x {patch[1]}: 1 GB hold no more" in said
    assert batch < 16
    assert f"2d: batch 16 of recipe paper is cut to {batch}: 1 GB hold no more" in said
