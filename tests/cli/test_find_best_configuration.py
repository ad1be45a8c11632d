"""f4s_find_best_configuration, from trainings to the command that it prints; residual encoders go the same way."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from fuse4seg.cli import plan_experiment, predict, train
from fuse4seg.cli.find_best_configuration import main

DATASET = "Dataset990_Phantom"
MODEL = f"{DATASET}/Fuse4SegTrainer__Fuse4SegPlans__2d"


def test_prints_a_command_that_predicts(trained_model: Path, own_results: Path, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained_model, own_results / MODEL)
    assert main(["990"]) == 0
    captured = capsys.readouterr()
    assert "2d is the only candidate." in captured.out
    assert "learnt from two folds on" in captured.err
    assert "post-processing: not learnt, as that takes two folds." in captured.out
    assert not (own_results / MODEL / "postprocessing.json").exists()
    content = json.loads((own_results / DATASET / "find_best.json").read_text())
    assert (content["chosen"], content["folds"], content["cases"]) == ("2d", [0], 1)
    images = tmp_path.parent / "images"
    words = shlex.split(captured.out.splitlines()[-1].replace("INPUT_FOLDER", str(images)).replace("OUTPUT_FOLDER", "out"))
    assert words[:5] == ["f4s_predict", "-i", str(images), "-o", "out"]
    assert content["predict"].split() == [words[0], *words[5:]]


@pytest.mark.parametrize(("flags", "said"), [
    (["990", "-c", "3d_lowres"], "-c 3d_lowres"), (["990", "-f", "3"], "2d is not trained on fold 3"),
    (["990", "-np", "0"], "-np"), (["990", "--seed", "-1"], "--seed"), (["991"], "no dataset 991")])
def test_says_in_a_line_what_is_wrong(trained_model: Path, own_results: Path, capsys: pytest.CaptureFixture[str],
                                      flags: list[str], said: str) -> None:
    shutil.copytree(trained_model, own_results / MODEL)
    assert main(flags) == 1
    error, = capsys.readouterr().err.splitlines()
    assert said in error
    assert not (own_results / DATASET / "find_best.json").exists()


@pytest.mark.slow
def test_residual_encoders_go_the_whole_way(planned_phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(planned_phantom, tmp_path / "roots"))
    small = ["follower.network=resenc_m", "follower.features=4", "patches.largest_batch=2", "pretraining.epochs=1",
             "training.epochs=1", "training.iterations=1"]
    assert plan_experiment.main(["-d", "990", "-gpu_memory_target", "0.1", "-p", "Residual", "--set", *small,
                                 "--root", str(root)]) == 0
    for fold in ("0", "1"):
        assert train.main(["990", "2d", fold, "-p", "Residual", "--npz", "-device", "cpu", "--root", str(root)]) == 0
    assert len([*root.rglob("validation/phantom_*.npz")]) == 2
    capsys.readouterr()
    assert main(["990", "-np", "1", "--root", str(root)]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    images, output = root / "nnUNet_raw" / DATASET / "imagesTs", tmp_path / "out"
    assert predict.main(["-i", str(images), "-o", str(output), *words[5:], "-device", "cpu", "--root", str(root)]) == 0
    assert (output / "phantom_005.nii.gz").is_file()
