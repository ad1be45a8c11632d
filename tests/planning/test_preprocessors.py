"""Preprocessors: the same as nnU-Net's for each configuration, and for cases without a label."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.datasets.nifti import HEADER
from fuse4seg.planning.planner import plan_experiment
from fuse4seg.planning.preprocess import preprocess
from fuse4seg.planning.preprocessors import OnePassPreprocessor, UnlabelledPreprocessor
from fuse4seg.plans import read_plans

LABELS = {"labels": {"background": 0, "tumour": 1}}
CONFIGURATIONS = ("2d", "3d_fullres")


class Counting(DefaultPreprocessor):
    """Keeps the spacing that each case was preprocessed to."""

    def __init__(self) -> None:
        super().__init__(verbose=False)
        self.spacings: list[Sequence[float]] = []

    def run_case(self, image_files: Any, seg_file: Any, plans_manager: Any, configuration_manager: Any,
                 dataset_json: Any) -> Any:
        self.spacings.append(configuration_manager.spacing)
        return super().run_case(image_files, seg_file, plans_manager, configuration_manager, dataset_json)


@pytest.fixture
def plan(make_fingerprinted: Callable[..., Path]) -> Callable[..., PlansManager]:
    """Function that plans a case of 1 mm as one of a dataset of any spacing."""

    def make(spacing: tuple[float, float, float]) -> PlansManager:
        folder = make_fingerprinted((24, 40, 36), spacing=spacing)
        plan_experiment(991)
        return PlansManager(read_plans(folder / "Fuse4SegPlans.json"))

    return make


@pytest.fixture
def case(roots: Path) -> tuple[list[str], str]:
    """Files of the only case: its channels, and its label."""
    raw = roots / "nnUNet_raw" / "Dataset991_Small"
    return [str(raw / "imagesTr" / f"case0_{channel:04d}.nii.gz") for channel in range(2)], str(raw / "labelsTr" / "case0.nii.gz")


def preprocess_once(case: tuple[list[str], str], plans: PlansManager, folder: Path) -> tuple[Counting, dict[str, Any]]:
    first, second = (plans.get_configuration(name) for name in CONFIGURATIONS)
    for name in CONFIGURATIONS:
        (folder / name).mkdir(parents=True)
    inner = Counting()
    OnePassPreprocessor(inner, {folder / "3d_fullres": second}).run_case_save(
        str(folder / "2d" / "case0"), *case, plans, first, LABELS)
    return inner, {name: nnUNetDatasetBlosc2(str(folder / name)).load_case("case0") for name in CONFIGURATIONS}


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 0.8, 0.8)])
def test_writes_what_nnunet_writes(spacing: tuple[float, float, float], plan: Callable[..., PlansManager],
                                   case: tuple[list[str], str], tmp_path: Path) -> None:
    plans = plan(spacing)
    _, ours = preprocess_once(case, plans, tmp_path / "ours")

    for name in CONFIGURATIONS:
        (tmp_path / name).mkdir()
        DefaultPreprocessor(verbose=False).run_case_save(str(tmp_path / name / "case0"), *case, plans,
                                                         plans.get_configuration(name), LABELS)
        channels, segmentation, _, properties = nnUNetDatasetBlosc2(str(tmp_path / name)).load_case("case0")
        np.testing.assert_array_equal(ours[name][0][:], channels[:])
        np.testing.assert_array_equal(ours[name][1][:], segmentation[:])
        np.testing.assert_equal({entry: value for entry, value in ours[name][3].items() if entry != HEADER}, properties)
        files = [blosc2.open(str(folder / "case0.b2nd")) for folder in (tmp_path / "ours" / name, tmp_path / name)]
        assert (files[0].chunks, files[0].blocks) == (files[1].chunks, files[1].blocks)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("absent", [0, 1])
def test_stores_an_absent_channel_as_zeros_and_says_so(absent: int, labelled: bool, plan: Callable[..., PlansManager],
                                                       case: tuple[list[str], str], tmp_path: Path) -> None:
    """The other channel, mask and label are those of nnU-Net for the one image alone."""
    plans, there = plan((1.0, 0.8, 0.8)), 1 - absent
    files: list[str | None] = [None, None]
    files[there] = case[0][there]
    inner, label = (DefaultPreprocessor(verbose=False), case[1]) if labelled else (UnlabelledPreprocessor(verbose=False), None)
    (tmp_path / "2d").mkdir()
    configuration = plans.get_configuration("2d")
    OnePassPreprocessor(inner, {}).run_case_save(str(tmp_path / "2d" / "case0"), files, label, plans, configuration, LABELS)
    channels, segmentation, _, properties = nnUNetDatasetBlosc2(str(tmp_path / "2d")).load_case("case0")
    alone, mask, told = inner.run_case([case[0][there]], label, plans, configuration, LABELS)
    np.testing.assert_array_equal(channels[there], alone[0])
    np.testing.assert_array_equal(segmentation[:], mask)
    assert not channels[absent].any()
    assert properties.pop("present") == [channel == there for channel in range(2)]
    np.testing.assert_equal({entry: value for entry, value in properties.items() if entry != HEADER}, told)


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "CTNormalization", "RescaleTo01Normalization",
                                    "RGBTo01Normalization", "NoNormalization"])
def test_normalises_nothing_in_an_absent_channel(scheme: str, plan: Callable[..., PlansManager], case: tuple[list[str], str],
                                                 tmp_path: Path) -> None:
    plans = plan((1.0, 1.0, 1.0))
    plans.plans["configurations"]["2d"]["normalization_schemes"] = ["ZScoreNormalization", scheme]
    (tmp_path / "2d").mkdir()
    OnePassPreprocessor(DefaultPreprocessor(verbose=False), {}).run_case_save(
        str(tmp_path / "2d" / "case0"), [case[0][0], None], case[1], plans, PlansManager(plans.plans).get_configuration("2d"),
        LABELS)
    assert not nnUNetDatasetBlosc2(str(tmp_path / "2d")).load_case("case0")[0][1].any()


def test_computes_what_is_shared_once(plan: Callable[..., PlansManager], case: tuple[list[str], str], tmp_path: Path) -> None:
    inner, results = preprocess_once(case, plan((1.0, 0.8, 0.8)), tmp_path / "ours")

    assert inner.spacings == [[0.8, 0.8]]
    assert results["2d"][0].shape == results["3d_fullres"][0].shape == (2, 6, 15, 12)


def test_computes_again_what_is_not(plan: Callable[..., PlansManager], case: tuple[list[str], str], tmp_path: Path) -> None:
    inner, results = preprocess_once(case, plan((2.0, 1.0, 1.0)), tmp_path / "ours")

    assert inner.spacings == [[1.0, 1.0], [2.0, 1.0, 1.0]]
    assert [results[name][0].shape for name in CONFIGURATIONS] == [(2, 6, 12, 10), (2, 3, 12, 10)]


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
