"""Predicting a case whose modalities lie apart: it is predicted, named, recorded, and shown on a checkerboard."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from fuse4seg.inference.export_case import Wanted
from fuse4seg.inference.model import Model, load_model
from fuse4seg.inference.predict_folder import Conduct, FirstStage, predict_folder
from fuse4seg.inference.run_record import RunRecord


@pytest.fixture
def model(untrained_model: Path) -> Model:
    return load_model(untrained_model, folds=(0,), device=torch.device("cpu"), mirroring=False)


@pytest.fixture
def images(untrained_phantom: Path, tmp_path: Path) -> Path:
    """Case still, as it was made, and case moved, whose FLAIR (0003) lies 4 voxels off T1 (0000), the reference."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in (untrained_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs").iterdir():
        shutil.copy(path, folder / path.name.replace("phantom_005", "still"))
        image = sitk.ReadImage(str(path))
        if "0003" in path.name:
            moved = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(image), 4, axis=1))
            moved.CopyInformation(image)
            image = moved
        sitk.WriteImage(image, str(folder / path.name.replace("phantom_005", "moved")))
    return folder


@pytest.mark.parametrize("processes", [0, 1])
def test_is_named_recorded_and_shown(model: Model, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                     processes: int) -> None:
    out = tmp_path / "out"
    with caplog.at_level("WARNING"):
        predict_folder(model, images, out, folds=(0,), record=RunRecord(out / "run.json", {}), wanted=Wanted(),
                       conduct=Conduct(processes=(processes, processes)))
    warnings = [record.message for record in caplog.records if "better" in record.message]
    assert len(warnings) == 1
    assert warnings[0].startswith("moved: FLAIR fits T1 better")
    assert [path.name for path in (out / "alignment").iterdir()] == ["moved_FLAIR.png"]
    cases = json.loads((out / "run.json").read_text())["cases"]
    assert "alignment/moved_FLAIR.png" in cases["moved"]["outputs"]
    assert not any("alignment" in name for name in cases["still"]["outputs"])
    found = cases["moved"]["alignment"]
    assert found.keys() == {"T1ce", "T2", "FLAIR"}
    assert {name for name, one in found.items() if one["suspect"]} == {"FLAIR"}
    np.testing.assert_allclose(found["FLAIR"]["shift"], (0, 4, 0), atol=0.6)
    assert found["FLAIR"]["information"][0] < found["FLAIR"]["information"][1]


def test_is_examined_once_in_a_cascade(untrained_cascade: Path, images: Path, tmp_path: Path,
                                       caplog: pytest.LogCaptureFixture) -> None:
    first, second = (load_model(untrained_cascade / "nnUNet_results" / "Dataset990_Phantom" /
                                f"Fuse4SegTrainer__Fuse4SegPlans__{configuration}", folds=(0,), device=torch.device("cpu"),
                                mirroring=False) for configuration in ("3d_lowres", "3d_cascade_fullres"))
    with caplog.at_level("WARNING"):
        predict_folder(second, images, tmp_path / "out", folds=(0,), previous=FirstStage(first, (0,)))
    assert len([record for record in caplog.records if "better" in record.message]) == 1
    assert not (tmp_path / "out" / "previous_stage" / "alignment").exists()
