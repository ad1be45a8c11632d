"""Images on the grids of their cases: where they lie after preprocessing, and their grey levels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.colour import window_of
from fuse4seg.comparison.case_grid import CaseGrid, FusedElsewhere

DATASET, CASE = "Dataset990_Phantom", "phantom_001"


@pytest.fixture
def source(planned_phantom: Path) -> Path:
    return planned_phantom / "nnUNet_preprocessed" / DATASET


@pytest.fixture
def grid(source: Path) -> CaseGrid:
    plans, dataset_json = (json.loads((source / name).read_text()) for name in ("Fuse4SegPlans.json", "dataset.json"))
    return CaseGrid(PlansManager(plans), "2d", dataset_json)


@pytest.fixture
def preprocessed(source: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Labels (Z, Y, X), and properties of the case."""
    _, labels, _, properties = nnUNetDatasetBlosc2(str(source / "nnUNetPlans_2d")).load_case(CASE)
    return np.asarray(labels[0]), properties


def write(folder: Path, case: str, voxels: np.ndarray) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(folder / f"{case}.nii.gz"))


def noise(properties: dict[str, Any], kind: type, *, white: int, seed: int = 0) -> np.ndarray:
    shape = properties["shape_before_cropping"]
    return np.random.default_rng(seed).integers(0, white, shape, endpoint=True).astype(kind)


def cropped(voxels: np.ndarray, properties: dict[str, Any]) -> np.ndarray:
    return voxels[tuple(slice(*ends) for ends in properties["bbox_used_for_cropping"])]


def test_labels_lie_where_the_preprocessed_ones_do(source: Path, grid: CaseGrid,
                                                   preprocessed: tuple[np.ndarray, dict[str, Any]]) -> None:
    labels, properties = preprocessed
    found = grid.labels(source / "gt_segmentations" / f"{CASE}.nii.gz", CASE, labels.shape, properties)
    np.testing.assert_array_equal(found, np.maximum(labels, 0))
    assert len(np.unique(found)) == 4


class TestLevels:
    def test_of_8_bits_are_as_they_are(self, grid: CaseGrid, preprocessed: tuple[np.ndarray, dict[str, Any]],
                                       tmp_path: Path) -> None:
        labels, properties = preprocessed
        voxels = noise(properties, np.uint8, white=99)
        write(tmp_path, CASE, voxels)
        found = FusedElsewhere(tmp_path, grid).levels(CASE, labels.shape, properties)
        np.testing.assert_allclose(found[0], cropped(voxels, properties), atol=1e-3)

    def test_of_a_unit_range_are_stretched_by_255(self, grid: CaseGrid, preprocessed: tuple[np.ndarray, dict[str, Any]],
                                                  tmp_path: Path) -> None:
        labels, properties = preprocessed
        voxels = noise(properties, np.float32, white=99) / 255
        write(tmp_path, CASE, voxels)
        found = FusedElsewhere(tmp_path, grid).levels(CASE, labels.shape, properties)
        np.testing.assert_allclose(found[0], 255 * cropped(voxels, properties), atol=1e-3)

    def test_of_others_are_those_of_the_window_of_the_whole_folder(self, grid: CaseGrid, tmp_path: Path,
                                                                   preprocessed: tuple[np.ndarray, dict[str, Any]]) -> None:
        labels, properties = preprocessed
        voxels, brighter = (noise(properties, np.int16, white=white, seed=white) for white in (1000, 3000))
        write(tmp_path, CASE, voxels)
        write(tmp_path, "phantom_002", brighter)
        found = FusedElsewhere(tmp_path, grid).levels(CASE, labels.shape, properties)
        low, high = window_of(np.concatenate([of[of != 0] for of in (voxels, brighter)]))
        expected = 255 * ((cropped(voxels, properties) - low) / (high - low)).clip(0, 1)
        np.testing.assert_allclose(found[0], expected, atol=1e-2)
        assert found.max() < 100
