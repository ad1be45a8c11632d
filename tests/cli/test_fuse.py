"""f4s_fuse: by rule, by model, and which flags go together."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Picture

from fuse4seg.cli.fuse import RULE_NAMES, main
from fuse4seg.cli.predict import main as predict
from fuse4seg.inference.fusion_rules import RULES


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """-i and -o for two folders of one case."""
    for name, level in (("CT", 30), ("MRI", 90)):
        (tmp_path / name).mkdir()
        Picture.fromarray(np.full((16, 16), level, np.uint8)).save(tmp_path / name / "a.png")
    return ["-i", str(tmp_path / "CT"), str(tmp_path / "MRI"), "-o", str(tmp_path / "out")]


def test_every_rule_has_its_choice() -> None:
    assert set(RULE_NAMES) == set(RULES)


@pytest.mark.parametrize(("rule", "level"), [("max", 90), ("mean", 60), ("laplacian", 60), ("wavelet", 60)])
def test_fuses_by_rule(words: list[str], tmp_path: Path, rule: str, level: int) -> None:
    assert main([*words, "--rule", rule]) == 0
    np.testing.assert_array_equal(np.asarray(Picture.open(tmp_path / "out" / "a.png")), level)


def test_a_faulty_case_ends_in_one_line_and_status_1(words: list[str], tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "CT" / "a.png").write_text("nothing")
    assert main([*words, "--rule", "max"]) == 1
    assert "a.png cannot be read" in capsys.readouterr().err


def test_a_rule_and_a_model_exclude_each_other(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--rule", "max", "-m", str(tmp_path)]) == 1
    assert "error: --rule" in capsys.readouterr().err


@pytest.mark.parametrize("by_path", [True, False])
def test_fuses_with_the_model_that_is_found_or_named(trained_phantom: Path, trained_model: Path, tmp_path: Path,
                                                     by_path: bool) -> None:
    images = trained_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    root = tmp_path / "elsewhere"
    model = shutil.copytree(trained_model, tmp_path / "model") if by_path else None
    chosen = ["-m", str(model), "--root", str(root)] if by_path else ["-d", "990", "--root", str(trained_phantom)]
    assert main(["-i", str(images), "-o", str(tmp_path / "out"), "-device", "cpu", *chosen]) == 0
    (written,) = (tmp_path / "out").glob("*.nii.gz")
    fused = sitk.GetArrayFromImage(sitk.ReadImage(str(written)))
    assert 0 <= fused.min() < fused.max() <= 1


def test_fuses_with_a_later_stage_of_a_cascade_as_it_is_predicted(untrained_cascade: Path, tmp_path: Path) -> None:
    """The leader does not look at the labels of the stage before, so it needs none."""
    images = untrained_cascade / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    chosen = ["-i", str(images), "--root", str(untrained_cascade), "-c", "3d_cascade_fullres", "-f", "0", "-device", "cpu"]
    assert main([*chosen, "-o", str(tmp_path / "fused")]) == 0
    assert predict([*chosen, "-o", str(tmp_path / "predicted"), "--disable_tta"]) == 0
    fused, predicted = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "phantom_005.nii.gz")))
                        for folder in (tmp_path / "fused", tmp_path / "predicted" / "fused"))
    assert fused.std() > 0.05
    np.testing.assert_allclose(fused, predicted, atol=1e-5)


def test_a_folder_without_a_model_is_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-m", str(tmp_path / "CT")]) == 1
    assert "no trained model" in capsys.readouterr().err
