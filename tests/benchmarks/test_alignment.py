"""The benchmark of alignment, on a phantom: what it moves is found, and counted right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.datasets.phantom import write_phantom_dataset


@pytest.fixture(scope="module")
def alignment(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("alignment")


def test_finds_and_repairs_what_it_misaligns(alignment: ModuleType, tmp_path: Path) -> None:
    folder = write_phantom_dataset(tmp_path, training_cases=2, test_cases=0, modalities=("T1ce", "FLAIR"), shape=(40, 52, 48))
    arguments = [str(folder / "imagesTr"), "--every", "2", "--repair", "-o", str(tmp_path / "alignment.json")]
    assert alignment.main(arguments) == 0
    result = json.loads((tmp_path / "alignment.json").read_text())
    # The turn that is drawn moves so small a head by less than a voxel, which none need look at.
    assert [result["summary"][f"found, {kind}"] for kind in ("shift", "turn", "both")] == [1, 0, 1]
    assert all(row["found"] == (row["off"] > 1) for row in result["rows"])
    assert result["summary"]["false alarms"] == 0
    assert (result["summary"]["images"], result["summary"]["cases"]) == (1, 1)
    assert result["summary"]["left, mean"] < 0.5


@pytest.mark.parametrize("kind", ["shift", "turn", "both"])
def test_moves_by_2_to_6_voxels_and_degrees(alignment: ModuleType, kind: str) -> None:
    image = sitk.Image((20, 30, 40), sitk.sitkFloat32)
    image.SetSpacing((0.5, 1.0, 2.0))
    for seed in range(20):
        transform = alignment.movement(image, kind, np.random.default_rng(seed))
        voxels = np.linalg.norm(np.array(transform.GetTranslation()) / image.GetSpacing())
        turn = np.degrees(np.arccos((np.trace(np.reshape(transform.GetMatrix(), (3, 3))) - 1) / 2))
        assert 2 <= voxels <= 6 if kind != "turn" else voxels == 0
        assert 2 <= turn <= 6 if kind != "shift" else turn == 0


def test_counts_images_found_and_cases_suspected(alignment: ModuleType) -> None:
    rows = [{"case": case, "kind": kind, "found": found} for case, kind, found in (
        ("a", "as it is", True), ("a", "as it is", True), ("b", "as it is", False), ("a", "shift", True), ("b", "shift", False),
        ("a", "turn", True), ("b", "turn", True), ("a", "both", True), ("b", "both", True))]
    summary = alignment.summarised(rows)
    assert summary == {"found, shift": 0.5, "found, turn": 1, "found, both": 1, "found": 5 / 6, "images": 2, "false alarms": 0.5,
                       "cases": 2}
