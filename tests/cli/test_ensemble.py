"""f4s_ensemble: two folders of probabilities into one of segmentations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.cli.ensemble import main


@pytest.fixture
def folders(planned_phantom: Path, tmp_path: Path) -> list[Path]:
    """Of one case each, by the phantom's plans."""
    preprocessed = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom"
    found = [tmp_path / "one", tmp_path / "other"]
    for seed, folder in enumerate(found):
        folder.mkdir()
        (folder / "plans.json").write_bytes((preprocessed / "Fuse4SegPlans.json").read_bytes())
        (folder / "dataset.json").write_bytes((preprocessed / "dataset.json").read_bytes())
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 5, 4), np.uint8)), str(folder / "a.nii.gz"))
        np.savez(folder / "a.npz", probabilities=np.random.default_rng(seed).random((4, 2, 5, 4)).astype(np.float32))
    return found


def test_segments_by_the_mean(folders: list[Path], tmp_path: Path) -> None:
    words = ["-i", *map(str, folders), "-o", str(tmp_path / "out")]
    assert main([*words, "--save_probabilities"]) == 0
    mean = np.mean([np.load(folder / "a.npz")["probabilities"] for folder in folders], axis=0)
    np.testing.assert_allclose(np.load(tmp_path / "out" / "a.npz")["probabilities"], mean, rtol=1e-6)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz")))
    np.testing.assert_array_equal(found, mean.argmax(0))


def test_says_in_a_line_what_does_not_fit(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((folders[1] / "dataset.json").read_text())
    (folders[1] / "dataset.json").write_text(json.dumps({**content, "labels": {"background": 0, "a": 1, "b": 2, "c": 3}}))
    assert main(["-i", *map(str, folders), "-o", str(tmp_path / "out")]) == 1
    error, = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: -i: {folders[1]} has the labels")
    assert not (tmp_path / "out").exists()
