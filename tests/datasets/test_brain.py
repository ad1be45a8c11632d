"""Brains: which images still have a skull, how HD-BET is asked, the intensity rule, and which slices count."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.datasets.brain import extract_brain, is_skull_stripped, telling_slices, to_8_bit
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


class TestExtraction:
    def test_images_whose_ground_is_exactly_zero_are_skull_stripped(self) -> None:
        modalities = np.ones((2, 10, 10, 10))
        modalities[0, :1] = 0
        assert not is_skull_stripped(modalities)
        modalities[1, :1] = 0
        assert is_skull_stripped(modalities)

    def test_hd_bets_mask_is_taken(self, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        install(tmp_path, HD_BET.format(python=sys.executable), monkeypatch)
        np.testing.assert_array_equal(extract_brain(head, device="cpu"), sitk.GetArrayFromImage(sitk.ReadImage(str(head))) > 50)

    def test_says_how_to_install_hd_bet(self, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(BrainExtractionError, match=r"t1\.nii\.gz still has its skull.*pip install"):
            extract_brain(head, device="cpu")

    @pytest.mark.parametrize(("script", "said"), [("echo no memory >&2; exit 3", "no memory"), ("true", "gave no mask")])
    def test_says_what_hd_bet_said(self, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str,
                                   said: str) -> None:
        install(tmp_path, f"#!/bin/sh\n{script}\n", monkeypatch)
        with pytest.raises(BrainExtractionError, match=f"hd-bet failed: .*{said}"):
            extract_brain(head, device="cpu")


class TestSlices:
    def test_the_brain_is_stretched_between_its_percentiles_and_the_rest_is_black(self) -> None:
        voxels = np.linspace(-500, 4000, 20_000).reshape(20, 25, 40)
        brain = np.zeros(voxels.shape, bool)
        brain[4:] = True
        levels = to_8_bit(voxels, brain)
        low, high = np.quantile(voxels[brain], [0.0005, 0.9995])
        expected = 1 + 254 * np.clip((voxels[brain] - low) / (high - low), 0, 1)
        np.testing.assert_allclose(levels[brain], expected, atol=0.51)
        assert (levels[brain].min(), levels[brain].max()) == (1, 255)
        assert not levels[~brain].any()

    def test_a_brain_of_one_intensity_is_not_black(self) -> None:
        brain = np.zeros((2, 2, 2), bool)
        assert not to_8_bit(np.ones(brain.shape), brain).any()
        brain[0] = True
        np.testing.assert_array_equal(to_8_bit(np.ones(brain.shape), brain), brain)

    def test_slices_with_brain_are_told_along_every_axis(self) -> None:
        brain = np.zeros((5, 6, 7), bool)
        brain[1:3, 4, 2:6] = True
        assert [telling_slices(brain, axis) for axis in range(3)] == [[1, 2], [4], [2, 3, 4, 5]]
