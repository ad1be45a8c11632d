"""Brain extraction: when it is needed, and what becomes of hd-bet's answer (a stand-in for the real one)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.datasets.brain import extract_brain, is_skull_stripped
from fuse4seg.errors import BrainExtractionError

HD_BET = """#!{python}
import sys
import SimpleITK as sitk
words = sys.argv[1:]
assert "--save_bet_mask" in words and words[words.index("-device") + 1] == "cpu"
image = sitk.ReadImage(words[words.index("-i") + 1])
sitk.WriteImage(sitk.Cast(image > 50, sitk.sitkUInt8), words[words.index("-o") + 1].replace(".nii.gz", "_bet.nii.gz"))
"""


@pytest.fixture
def head(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(0).integers(1, 100, (4, 5, 6)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "t1.nii.gz"))
    return tmp_path / "t1.nii.gz"


def install(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "hd-bet").write_text(script)
    (folder / "hd-bet").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_images_whose_ground_is_exactly_zero_are_skull_stripped() -> None:
    modalities = np.ones((2, 10, 10, 10))
    modalities[0, :1] = 0
    assert not is_skull_stripped(modalities)
    modalities[1, :1] = 0
    assert is_skull_stripped(modalities)


def test_hd_bets_mask_is_taken(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, HD_BET.format(python=sys.executable), monkeypatch)
    np.testing.assert_array_equal(extract_brain(head, device="cpu"), sitk.GetArrayFromImage(sitk.ReadImage(str(head))) > 50)


def test_says_how_to_install_hd_bet(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrainExtractionError, match=r"t1\.nii\.gz still has its skull.*pip install"):
        extract_brain(head, device="cpu")


@pytest.mark.parametrize(("script", "said"), [("echo no memory >&2; exit 3", "no memory"), ("true", "gave no mask")])
def test_says_what_hd_bet_said(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str) -> None:
    install(tmp_path, f"#!/bin/sh\n{script}\n", monkeypatch)
    with pytest.raises(BrainExtractionError, match=f"hd-bet failed: .*{said}"):
        extract_brain(head, device="cpu")
