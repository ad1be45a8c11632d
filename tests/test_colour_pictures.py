"""Pictures in colour as nnU-Net lays them out, one file of R, G and B: planned, trained on and predicted by the commands."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import blosc2
import numpy as np
import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from PIL import Image as Picture

from fuse4seg.cli import extract_fingerprint, plan_experiment, predict, preprocess, train
from fuse4seg.planning import fingerprint
from fuse4seg.planning.foreground import draw_foreground

DATASET = "Dataset992_Slides"
SMALL = ["-gpu_memory_target", "0.1", "-overwrite_plans_name", "Fuse4SegPlans", "--set", "follower.features=8",
         "patches.largest_batch=2", "pretraining.epochs=1", "training.epochs=1", "training.iterations=1"]
SIDE = 48


def run(command: Any, root: Path, *words: str) -> None:
    with mock.patch.dict(os.environ):
        assert command.main([*words, "--root", str(root)]) == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Roots of five pictures of a red disc on another colour, and one to predict, preprocessed for 2d."""
    root = tmp_path_factory.mktemp("colour")
    raw, random = root / "nnUNet_raw" / DATASET, np.random.default_rng(0)
    distance = np.hypot(*(np.mgrid[:SIDE, :SIDE] - SIDE / 2))
    for case in range(6):
        picture, disc = random.integers(1, 120, (SIDE, SIDE, 3), dtype=np.uint8), distance < 8 + case
        picture[disc, 0] = 230
        for folder, image in (("images", picture), ("labels", disc.astype(np.uint8))):
            place = raw / f"{folder}{'Tr' if case < 5 else 'Ts'}"
            place.mkdir(parents=True, exist_ok=True)
            Picture.fromarray(image).save(place / f"c{case}{'_0000' if folder == 'images' else ''}.png")
    (raw / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "disc": 1}, "numTraining": 5,
        "file_ending": ".png"}))
    with pytest.MonkeyPatch.context() as patch:
        # nnU-Net's 10^8 draws take seconds, however small the dataset.
        patch.setattr(fingerprint, "draw_foreground", lambda images, segmentation, *, draws:
                      draw_foreground(images, segmentation, draws=min(draws, 1000)))
        run(extract_fingerprint, root, "-d", "992", "-np", "1")
    run(plan_experiment, root, "-d", "992", *SMALL)
    run(preprocess, root, "-d", "992", "-c", "2d", "-np", "1")
    return root


def test_are_preprocessed_as_nnunet_does(root: Path) -> None:
    folder = root / "nnUNet_preprocessed" / DATASET
    plans = PlansManager(str(folder / "Fuse4SegPlans.json"))
    stock = DefaultPreprocessor(verbose=False)
    for case in ("c0", "c4"):
        raw = root / "nnUNet_raw" / DATASET
        expected, labels, _ = stock.run_case([str(raw / "imagesTr" / f"{case}_0000.png")], str(raw / "labelsTr" / f"{case}.png"),
                                             plans, plans.get_configuration("2d"), str(raw / "dataset.json"))
        found, segmentation = (blosc2.open(str(folder / "nnUNetPlans_2d" / f"{case}{kind}.b2nd"))[:] for kind in ("", "_seg"))
        assert found.shape == (3, 1, SIDE, SIDE)
        assert not np.allclose(found[0], found[1])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_array_equal(segmentation, labels)


def test_are_trained_on_and_predicted(root: Path, tmp_path: Path) -> None:
    run(train, root, "992", "2d", "0", "-device", "cpu")
    images = root / "nnUNet_raw" / DATASET / "imagesTs"
    run(predict, root, "-d", "992", "-c", "2d", "-f", "0", "-device", "cpu", "-i", str(images), "-o", str(tmp_path / "out"))
    with Picture.open(tmp_path / "out" / "c5.png") as labels, Picture.open(tmp_path / "out" / "fused" / "c5.png") as fused:
        assert (labels.size, fused.size, fused.mode) == ((SIDE, SIDE), (SIDE, SIDE), "RGB")
        assert set(np.unique(np.asarray(labels))) <= {0, 1}
        assert np.asarray(fused).min() > 0  # nothing of the picture was taken for background
