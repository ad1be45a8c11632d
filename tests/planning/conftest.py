"""Small raw datasets for planning: real files of a few voxels, with the fingerprint of a dataset of any size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

DATASET = "Dataset991_Small"


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of empty data roots of this test alone."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


@pytest.fixture
def make_raw(roots: Path) -> Callable[..., Path]:
    """Function that writes Dataset991_Small, cases of (6, 12, 10) voxels with a tumour, and gives its folder."""

    def make(channels: tuple[str, ...] = ("T1", "FLAIR"), *, cases: int = 2, empty_border: int = 0) -> Path:
        folder = roots / "nnUNet_raw" / DATASET
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir(parents=True)
        random = np.random.default_rng(0)
        label = np.zeros((6, 12, 10), np.uint8)
        label[2:4, 4:8, 3:6] = 1
        for case in range(cases):
            for channel in range(len(channels)):
                image = random.gamma(3, 100 * (channel + 1), label.shape).astype(np.float32)
                write(np.pad(image, empty_border), folder / "imagesTr" / f"case{case}_{channel:04d}.nii.gz")
            write(np.pad(label, empty_border), folder / "labelsTr" / f"case{case}.nii.gz")
        description = {"channel_names": {str(number): name for number, name in enumerate(channels)},
                       "labels": {"background": 0, "tumour": 1}, "numTraining": cases, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(description))
        return folder

    return make


@pytest.fixture
def make_fingerprinted(roots: Path, make_raw: Callable[..., Path]) -> Callable[..., Path]:
    """Function that writes one case and the fingerprint of many of any size, and gives the preprocessed folder."""

    def make(shape: tuple[int, int, int], *, channels: tuple[str, ...] = ("T1", "FLAIR"), cases: int = 2,
             spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), relative_size: float = 1.0) -> Path:
        description_file = make_raw(channels, cases=1) / "dataset.json"
        description_file.write_text(json.dumps({**json.loads(description_file.read_text()), "numTraining": cases}))
        numbers = [str(number) for number in range(len(channels))]
        statistics = {"mean": 9.0, "median": 9.0, "std": 1.0, "min": 1.0, "max": 20.0, "percentile_99_5": 19.0,
                      "percentile_00_5": 2.0}
        fingerprint: dict[str, Any] = {
            "spacings": [list(spacing)] * cases, "shapes_after_crop": [list(shape)] * cases,
            "foreground_intensity_properties_per_channel": dict.fromkeys(numbers, statistics),
            "median_relative_size_after_cropping": relative_size,
            "intensity_windows_per_channel": {number: {"low": -1.0, "high": 3.0 + int(number)} for number in numbers},
            "label_volumes": {"tumour": [1.0] * cases}}
        folder = roots / "nnUNet_preprocessed" / DATASET
        folder.mkdir()
        (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        return folder

    return make


def write(voxels: np.ndarray, path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
