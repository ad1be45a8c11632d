"""One pass over the cases for all configurations, against nnU-Net's pass for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.planning.one_pass import OnePassPreprocessor
from fuse4seg.planning.planner import plan_experiment
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
        np.testing.assert_equal(ours[name][3], properties)
        files = [blosc2.open(str(folder / "case0.b2nd")) for folder in (tmp_path / "ours" / name, tmp_path / name)]
        assert (files[0].chunks, files[0].blocks) == (files[1].chunks, files[1].blocks)


def test_computes_what_is_shared_once(plan: Callable[..., PlansManager], case: tuple[list[str], str], tmp_path: Path) -> None:
    inner, results = preprocess_once(case, plan((1.0, 0.8, 0.8)), tmp_path / "ours")

    assert inner.spacings == [[0.8, 0.8]]
    assert results["2d"][0].shape == results["3d_fullres"][0].shape == (2, 6, 15, 12)


def test_computes_again_what_is_not(plan: Callable[..., PlansManager], case: tuple[list[str], str], tmp_path: Path) -> None:
    inner, results = preprocess_once(case, plan((2.0, 1.0, 1.0)), tmp_path / "ours")

    assert inner.spacings == [[1.0, 1.0], [2.0, 1.0, 1.0]]
    assert [results[name][0].shape for name in CONFIGURATIONS] == [(2, 6, 12, 10), (2, 3, 12, 10)]
