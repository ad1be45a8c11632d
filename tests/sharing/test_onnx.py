"""Exported networks give what PyTorch's give, and a program without PyTorch finds the labels that f4s_predict finds."""

from __future__ import annotations

import ast
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import SimpleITK as sitk
import torch

from fuse4seg.cli.export_model import main
from fuse4seg.cli.predict import main as predict
from fuse4seg.inference.find_model import model_in
from fuse4seg.inference.model import load_model
from fuse4seg.sharing import onnx
from fuse4seg.sharing.onnx import describe, export_onnx

PROGRAM = Path(onnx.__file__).with_name(onnx.PROGRAM)


def model_below(root: Path) -> Path:
    return next((root / "nnUNet_results").glob("*/*"))


def run(file: Path, given: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file))
    return session.run(None, {session.get_inputs()[0].name: given.numpy()})[0]


@pytest.mark.slow
@pytest.mark.parametrize(("configuration", "colours"), [("2d", 1), ("3d_fullres", 3)])
def test_networks_give_what_pytorch_s_give_for_any_number_of_windows(configuration: str, colours: int, tmp_path: Path,
                                                                     make_untrained: Callable[..., Path]) -> None:
    folder = model_below(make_untrained(configuration, colours=colours))
    leader, follower = export_onnx(model_in(folder), tmp_path)
    model = load_model(folder, folds=(0,), device=torch.device("cpu"))
    network = next(model.with_each_weights())
    for count in (1, 3):
        channels = torch.randn(count, network.modalities, *model.patch_size, generator=torch.Generator().manual_seed(count))
        channels[0, :, :5] = 0  # outside of the image
        with torch.inference_mode():
            fused = network.fuse(channels).fused.image
            logits = network.segment(fused)
        # What lies in the middle between two levels may be rounded either way.
        levels = np.abs(np.rint(255 * run(leader, channels)) - np.rint(255 * fused.numpy()))
        assert levels.max() <= 1
        assert (levels == 0).mean() > 0.999
        np.testing.assert_allclose(run(follower, fused), logits.numpy(), atol=1e-3)


def test_the_exporter_s_steps_are_not_said(untrained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    class Program:
        def save(self, path: Path) -> None:
            Path(path).write_text("network")

    def exported(*_: object, **__: object) -> Program:
        for name in ("torch.onnx.exporter", "onnxscript.optimizer", "onnx_ir.passes.common.initializer_deduplication"):
            logging.getLogger(name).info("a step")
        return Program()

    monkeypatch.setattr(torch.onnx, "export", exported)
    assert main(["-m", str(untrained_model), "--onnx", "-o", str(tmp_path / "onnx")]) == 0
    assert "a step" not in capsys.readouterr().err
    assert len(list((tmp_path / "onnx").rglob("*.onnx"))) == 2


@pytest.mark.slow
def test_the_program_beside_them_finds_the_labels_that_f4s_predict_finds(trained_phantom: Path, trained_model: Path,
                                                                         tmp_path: Path) -> None:
    assert main(["-m", str(trained_model), "--onnx", "-o", str(tmp_path / "onnx")]) == 0
    images = trained_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    flags = ["--disable_tta", "--precision", "float32", "-device", "cpu", "--root", str(trained_phantom)]
    assert predict(["-i", str(images), "-o", str(tmp_path / "predicted"), "-d", "990", *flags]) == 0
    files = sorted(images.glob("*.nii.gz"))
    case = files[0].name.removesuffix("_0000.nii.gz")
    subprocess.run([sys.executable, tmp_path / "onnx" / "run_onnx.py", tmp_path / "onnx" / "fold_0", tmp_path / "labels.nii.gz",
                    *(file for file in files if file.name.startswith(case))], check=True, cwd=tmp_path)
    found, expected = (sitk.ReadImage(str(path)) for path in (tmp_path / "labels.nii.gz",
                                                              tmp_path / "predicted" / f"{case}.nii.gz"))
    assert (found.GetSpacing(), found.GetOrigin()) == (expected.GetSpacing(), expected.GetOrigin())
    same = sitk.GetArrayFromImage(found) == sitk.GetArrayFromImage(expected)
    assert same.mean() >= 0.999
    assert len(np.unique(sitk.GetArrayFromImage(expected))) > 1


def test_the_program_needs_neither_pytorch_nor_this_package() -> None:
    imports = [node for node in ast.walk(ast.parse(PROGRAM.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {name for node in imports for name in ([node.module] if isinstance(node, ast.ImportFrom)
                                                   else [alias.name for alias in node.names])}
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {"numpy", "onnxruntime", "SimpleITK", "scipy"}


class TestTheProgramSaysInOneLine:
    """What is wrong, and writes nothing."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Callable[..., str]:
        """Function that runs it on two images of 2 x 8 x 8 voxels, with what is to be changed, and gives what it says."""
        def run(*, model: dict[str, object] | None = None, files: Sequence[str] = ("T1.nii.gz", "T2.nii.gz"),
                output: str = "labels.nii.gz", fold: str = "fold_0") -> str:
            told = {"patch_size": [8, 8], "transpose_forward": [0, 1, 2], "spacing": [1.0, 1.0], "regions_class_order": None,
                    "channels": [{"name": name, "normalization": "CTNormalization"} for name in ("T1", "T2")]}
            (tmp_path / "model.json").write_text(json.dumps(told | (model or {})))
            (tmp_path / "fold_0").mkdir()
            for network in ("leader.onnx", "follower.onnx"):
                (tmp_path / "fold_0" / network).touch()
            for name, columns, origin in (("T1", 8, 0), ("T2", 8, 0), ("small", 7, 0), ("far", 8, 9)):
                image = sitk.GetImageFromArray(np.ones((2, 8, columns), np.float32))
                image.SetOrigin((origin, 0, 0))
                sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
            (tmp_path / "text.nii.gz").write_text("no image")
            words = [fold, output, *files]
            done = subprocess.run([sys.executable, PROGRAM, *(tmp_path / word for word in words)], capture_output=True, text=True)
            assert done.returncode == 1
            assert not (tmp_path / output).exists()
            return done.stderr

        return run

    @pytest.mark.parametrize(("changed", "said"), [
        ({"model": {"spacing": [9.0, 9.0]}}, r"spacing .* is not the model's: resample to \[9.0, 9.0\] mm first"),
        ({}, "this program does not know the normalisation CTNormalization"),
        ({"files": ["T1.nii.gz"]}, r"1 image\(s\) given: the model takes 2, T1, T2"),
        ({"files": ["T1.nii.gz", "T9.nii.gz"]}, r".*T9.nii.gz is missing, or cannot be read as an image"),
        ({"files": ["text.nii.gz", "T2.nii.gz"]}, r".*text.nii.gz is missing, or cannot be read as an image"),
        ({"files": ["T1.nii.gz", "small.nii.gz"]}, r".*small.nii.gz has another grid than .*T1.nii.gz: resample it .*"),
        ({"files": ["T1.nii.gz", "far.nii.gz"]}, r".*far.nii.gz has another grid than .*T1.nii.gz: resample it .*"),
        ({"fold": "fold_9"}, r".*leader.onnx is missing: name the folder of a fold .*"),
        ({"output": "none/labels.nii.gz"}, r".*none is missing: .* an output in a folder that exists")])
    def test_of_a_users_mistake(self, run: Callable[..., str], changed: dict[str, object], said: str) -> None:
        last = run(**changed).strip().splitlines()[-1]  # ITK may have said something before
        assert re.fullmatch(said, last)


def test_learnt_rules_are_said_to_be_left_out(untrained_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: SimpleNamespace(save=lambda path: Path(path).touch()))
    model = tmp_path / untrained_model.parent.name / untrained_model.name
    shutil.copytree(untrained_model, model)
    for there in (False, True):
        caplog.clear()
        if there:
            (model / "postprocessing.json").write_text("{}")
        export_onnx(model_in(model), tmp_path / "onnx")
        assert ("does not apply learnt rules" in caplog.text) is there


def test_description_says_how_a_case_is_preprocessed(untrained_model: Path) -> None:
    model = load_model(untrained_model, folds=(0,), device=torch.device("cpu"))
    said = describe(model, ["fold_0/leader.onnx"])
    plans = json.loads((untrained_model / "plans.json").read_text())
    planned = plans["configurations"]["2d"]
    assert said["patch_size"] == planned["patch_size"]
    assert said["spacing"] == planned["spacing"]
    assert [channel["normalization"] for channel in said["channels"]] == planned["normalization_schemes"]
    assert [channel["name"] for channel in said["channels"]] == ["T1", "T1ce", "T2", "FLAIR"]
    assert said["channels"][2]["intensities"] == plans["foreground_intensity_properties_per_channel"]["2"]
    assert said["labels"] == json.loads((untrained_model / "dataset.json").read_text())["labels"]
    assert json.loads(json.dumps(said)) == said


class TestRefusals:
    def refused(self, *flags: object, capsys: pytest.CaptureFixture[str]) -> str:
        assert main([*map(str, flags), "--onnx"]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    def test_a_later_stage_of_a_cascade(self, untrained_cascade: Path, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
        flags = ["-d", "990", "-c", "3d_cascade_fullres", "-o", tmp_path / "out", "--root", untrained_cascade]
        assert "later stage of a cascade" in self.refused(*flags, capsys=capsys)
        assert not (tmp_path / "out").exists()

    def test_missing_packages(self, untrained_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                              monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnx, "find_spec", lambda name: None)
        line = self.refused("-m", untrained_model, "-o", tmp_path / "out", capsys=capsys)
        assert "needs onnx and onnxscript. Install with pip install fuse4seg[onnx]" in line
        assert not (tmp_path / "out").exists()

    def test_an_archive_s_name(self, untrained_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "names a folder with --onnx" in self.refused("-m", untrained_model, "-o", tmp_path / "a.zip", capsys=capsys)

    def test_several_checkpoints(self, untrained_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        flags = ["-m", untrained_model, "-o", tmp_path / "out", "-chk", "checkpoint_final.pth", "other.pth"]
        line = self.refused(*flags, capsys=capsys)
        assert "one model at a time" in line

    def test_files_of_others(self, untrained_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "model.json").write_text("mine")
        assert "would be replaced" in self.refused("-m", untrained_model, "-o", tmp_path, capsys=capsys)
        assert (tmp_path / "model.json").read_text() == "mine"
