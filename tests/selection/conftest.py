"""Models of random weights whose validation was written by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from fuse4seg.evaluation.nnunet_summary import summarise_folder

DATASET = "Dataset990_Phantom"
#: Validation cases of each fold.
FOLDS = {0: (0, 1, 2), 1: (3, 4)}
Spoil = Callable[[np.ndarray, int], np.ndarray]


@pytest.fixture
def make_validated(make_untrained: Callable[..., Path], planned_phantom: Path, tmp_path: Path,
                   monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Function that gives the folder of a model of two folds, validated, in a results root of this test alone."""
    results = tmp_path / "nnUNet_results"
    monkeypatch.setenv("nnUNet_results", str(results))
    monkeypatch.setenv("nnUNet_preprocessed", str(planned_phantom / "nnUNet_preprocessed"))
    references = planned_phantom / "nnUNet_preprocessed" / DATASET / "gt_segmentations"

    def make(configuration: str, spoil: Spoil, *, sure: float = 0.9, **changes: Any) -> Path:
        """``spoil`` makes the prediction of a case's true labels and number; its voxels have the probability ``sure``."""
        name = f"Fuse4SegTrainer__Fuse4SegPlans__{configuration}"
        source = make_untrained(configuration, folds=(0, 1)) / "nnUNet_results" / DATASET / name
        model = Path(shutil.copytree(source, results / DATASET / name))
        dataset_json = {**json.loads((model / "dataset.json").read_text()), **changes}
        (model / "dataset.json").write_text(json.dumps(dataset_json))
        for fold, cases in FOLDS.items():
            folder = model / f"fold_{fold}" / "validation"
            folder.mkdir()
            for number in cases:
                truth = sitk.ReadImage(str(references / f"phantom_{number:03d}.nii.gz"))
                labels = spoil(sitk.GetArrayFromImage(truth), number)
                image = sitk.GetImageFromArray(labels)
                image.CopyInformation(truth)
                sitk.WriteImage(image, str(folder / f"phantom_{number:03d}.nii.gz"))
                shares = np.where(np.arange(4)[:, None, None, None] == labels, sure, (1 - sure) / 3).astype(np.float32)
                np.savez_compressed(folder / f"phantom_{number:03d}.npz", probabilities=shares)
            summary = summarise_folder(folder, references, dataset_json=dataset_json, reader=SimpleITKIO)
            (folder / "summary.json").write_text(json.dumps(summary))
        return model

    return make
