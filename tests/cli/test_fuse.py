"""f4s_fuse: by rule, by model, and which flags go together."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Picture

from fuse4seg.cli.evaluate_fusion import main as evaluate
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


def test_fuses_in_colour_by_rule(words: list[str], tmp_path: Path) -> None:
    """Orange, the first modality's hue, where it alone is bright; and the luma beside it."""
    for name, bright in (("CT", slice(0, 8)), ("MRI", slice(8, 16))):
        levels = np.zeros((16, 16), np.uint8)
        levels[bright] = 200
        Picture.fromarray(levels).save(tmp_path / name / "a.png")
    assert main([*words, "--rule", "colour"]) == 0
    colours = np.asarray(Picture.open(tmp_path / "out" / "a.png")).astype(float)
    orange, blue = np.array([0.91, 0.55, 0.11]), np.array([0.09, 0.45, 0.89])
    for rows, hue in ((slice(0, 8), orange), (slice(8, 16), blue)):
        np.testing.assert_allclose(colours[rows], np.broadcast_to(200 * hue, (8, 16, 3)), atol=0.501)
    grey = Picture.open(tmp_path / "out" / "grey" / "a.png")
    assert grey.mode == "L"
    assert np.abs(np.asarray(grey) - colours @ [0.299, 0.587, 0.114]).max() <= 0.501


def test_fuses_volumes_in_colour_by_rule(tmp_path: Path) -> None:
    """RGB24 in place, which f4s_evaluate_fusion then scores."""
    random, images = np.random.default_rng(0), tmp_path / "images"
    images.mkdir()
    for number in range(2):
        image = sitk.GetImageFromArray(random.integers(0, 256, (3, 48, 44), dtype=np.uint8))
        image.SetSpacing((0.5, 1.5, 3))
        sitk.WriteImage(image, str(images / f"a_{number:04d}.nii.gz"))
    assert main(["-i", str(images), "-o", str(tmp_path / "out"), "--rule", "colour"]) == 0
    written = nibabel.load(tmp_path / "out" / "a.nii.gz")
    assert int(written.header["datatype"]) == 128
    np.testing.assert_allclose(written.affine, nibabel.load(images / "a_0000.nii.gz").affine)
    assert (tmp_path / "out" / "grey" / "a.nii.gz").is_file()
    assert evaluate(["-i", str(images), "-f", str(tmp_path / "out"), "-o", str(tmp_path / "result.json"), "-np", "1"]) == 0


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
    assert (fused.dtype, fused.shape[-1]) == (np.uint8, 3)
    assert fused.min() == 0 < fused.max()
    assert sitk.ReadImage(str(tmp_path / "out" / "grey" / written.name)).GetPixelID() == sitk.sitkUInt8


def test_fuses_with_a_later_stage_of_a_cascade_as_it_is_predicted(untrained_cascade: Path, tmp_path: Path) -> None:
    """The leader does not look at the labels of the stage before, so it needs none."""
    images = untrained_cascade / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    chosen = ["-i", str(images), "--root", str(untrained_cascade), "-c", "3d_cascade_fullres", "-f", "0", "-device", "cpu"]
    assert main([*chosen, "-o", str(tmp_path / "fused")]) == 0
    assert predict([*chosen, "-o", str(tmp_path / "predicted"), "--disable_tta"]) == 0
    fused, predicted = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "phantom_005.nii.gz")))
                        for folder in (tmp_path / "fused", tmp_path / "predicted" / "fused"))
    assert fused.std() > 12
    np.testing.assert_array_equal(fused, predicted)


def test_a_folder_without_a_model_is_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-m", str(tmp_path / "CT")]) == 1
    assert "no trained model" in capsys.readouterr().err
