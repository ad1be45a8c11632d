"""Preprocessing without labels: the same images, and what nnU-Net's data loader asks for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.planning.planner import plan_experiment
from fuse4seg.planning.preprocess import preprocess
from fuse4seg.plans import read_plans


def preprocessed(folder: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    """Channels, segmentation and properties of the one case, planned and preprocessed for 2d."""
    plan_experiment(991)
    preprocess(991, configurations=["2d"], processes=1)
    channels, segmentation, _, properties = nnUNetDatasetBlosc2(str(folder / "nnUNetPlans_2d")).load_case("case0")
    return channels[:], segmentation[:], properties


@pytest.fixture
def folder(make_fingerprinted: Callable[..., Path], roots: Path) -> Path:
    """The preprocessed folder of a labelled dataset of one case, whose first rows are empty."""
    import SimpleITK as sitk

    folder = make_fingerprinted((6, 12, 10), cases=1)
    for path in (roots / "nnUNet_raw" / folder.name / "imagesTr").iterdir():
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        voxels[:, :3, :5] = 0
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    return folder


def test_only_the_labels_are_missing(folder: Path, roots: Path) -> None:
    channels, segmentation, properties = preprocessed(folder)
    shutil.rmtree(folder / "gt_segmentations")
    shutil.rmtree(roots / "nnUNet_raw" / folder.name / "labelsTr")
    without = preprocessed(folder)

    np.testing.assert_array_equal(without[0], channels)
    np.testing.assert_array_equal(without[1], np.minimum(segmentation, 0))
    assert set(np.unique(without[1])) == {-1, 0}
    assert without[2]["class_locations"] == {}
    assert len(properties["class_locations"][1])
    assert without[2]["shape_before_cropping"] == properties["shape_before_cropping"]
    assert not (folder / "gt_segmentations").exists()


def test_nnu_net_s_loader_draws_patches_all_over_the_image(folder: Path, roots: Path) -> None:
    shutil.rmtree(roots / "nnUNet_raw" / folder.name / "labelsTr")
    preprocessed(folder)
    description = json.loads((folder / "dataset.json").read_text())
    manager = PlansManager(read_plans(folder / "Fuse4SegPlans.json")).get_label_manager(description)
    loader = nnUNetDataLoader(nnUNetDatasetBlosc2(str(folder / "nnUNetPlans_2d")), 8, [4, 4], [4, 4], manager,
                              oversample_foreground_percent=0.5)
    np.random.seed(0)
    batch = loader.generate_train_batch()
    assert batch["data"].shape == (8, 2, 4, 4)
    assert len({tuple(sample.flatten().tolist()) for sample in batch["data"]}) > 4
    assert set(batch["target"].unique().tolist()) <= {-1, 0}
