"""f4s_train: what it prints, and one line for everything that cannot be trained, with nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch._inductor import config as inductor

from fuse4seg.cli import predict
from fuse4seg.cli.train import main
from fuse4seg.training.run import Training

DATASET = "Dataset990_Phantom"
MODEL = Path("nnUNet_results", DATASET, "Fuse4SegTrainer__Fuse4SegPlans__2d")
CHANGES = ("pretraining.epochs=0", "training.epochs=1", "training.iterations=1")
HARDLY = ["-device", "cpu", "--set", *CHANGES]
CHANGED = MODEL.with_name(Training("990", "2d", 0, changes=CHANGES).folder_name)
Refused = Callable[..., str]


@pytest.fixture
def root(planned_phantom: Path, tmp_path: Path) -> Path:
    """Roots of this test's own, planned and preprocessed; nothing is trained."""
    shutil.copytree(planned_phantom, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def trained_root(trained_phantom: Path, tmp_path: Path) -> Path:
    """Roots of this test's own, with fold 0 trained."""
    shutil.copytree(trained_phantom, tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command, which must fail with one line, which is returned, and leave everything as it was."""

    def run(root: Path, *words: str) -> str:
        before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
        assert main([*words, "-device", "cpu", "--root", str(root)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert len(captured.err.splitlines()) == 1
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
        return captured.err

    return run


class TestTrain:
    def test_says_how_it_goes_writes_a_report_and_ends_with_the_validation_dice(self, root: Path,
                                                                                capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["990", "2d", "1", *HARDLY, "--root", str(root)]) == 0
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "pre-training epoch" not in captured.err
        assert "epoch 0: upper " in captured.err
        assert "ratio " in captured.err
        summary = json.loads((root / CHANGED / "fold_1" / "validation" / "summary.json").read_text())
        lines = captured.err.splitlines()
        assert lines[-1] == f"Mean Validation Dice: {summary['foreground_mean']['Dice']:.4f}"
        page = root / CHANGED / "fold_1" / "validation" / "report" / "index.html"
        assert f"report: {page}" in lines
        shown = page.read_text()
        assert all(f'data-case="{case}"' in shown for case in [entry["prediction_file"].rpartition("/")[2].removesuffix(".nii.gz")
                                                               for entry in summary["metric_per_case"]])
        assert "from left to right: T1, T1ce, T2, FLAIR, fused, segmentation, reference" in shown
        assert not (root / CHANGED / "fold_1" / "pretrained.pth").exists()
        recipe = torch.load(root / CHANGED / "fold_1" / "checkpoint_final.pth", weights_only=True)["recipe"]
        assert (recipe["training"]["iterations"], recipe["bilevel"]["hypergradient"]) == (1, "gauss_newton")

    def test_only_validates_on_request(self, trained_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["990", "2d", "0", "--val", "-device", "cpu", "--root", str(trained_root)]) == 0
        said = capsys.readouterr().err
        assert "Mean Validation Dice: " in said
        assert "epoch" not in said

    def test_hides_what_nnunet_says_unless_asked(self, trained_root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        words = ["990", "2d", "0", "--c", "-device", "cpu", "--root", str(trained_root)]
        assert main(words) == 0
        captured = capfd.readouterr()
        assert captured.out == ""
        assert "Training done." not in captured.err
        assert main([*words, "--verbose"]) == 0
        assert "Training done." in capfd.readouterr().err

    @pytest.mark.slow
    def test_fuses_and_segments_volumes(self, root: Path, tmp_path: Path) -> None:
        assert main(["990", "3d_fullres", "0", "-device", "cpu", "--root", str(root)]) == 0
        model = root / MODEL.with_name("Fuse4SegTrainer__Fuse4SegPlans__3d_fullres")
        assert (model / "fold_0" / "validation" / "summary.json").is_file()

        images = root / "nnUNet_raw" / DATASET / "imagesTs"
        assert predict.main(["-i", str(images), "-o", str(tmp_path / "out"), "-device", "cpu", "--root", str(root),
                             "--save_attention", "--save_panels"]) == 0
        source = sitk.ReadImage(str(images / "phantom_005_0000.nii.gz"))
        for path in (tmp_path / "out").rglob("*.nii.gz"):
            image = sitk.ReadImage(str(path))
            assert image.GetSize() == source.GetSize()
            assert image.GetOrigin() == pytest.approx(source.GetOrigin(), abs=1e-5)
            assert image.GetDirection() == pytest.approx(source.GetDirection(), abs=1e-5)
        segmentation = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "phantom_005.nii.gz")))
        assert set(np.unique(segmentation)) <= {0, 1, 2, 3}
        fused = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "fused" / "phantom_005.nii.gz")))
        assert fused.dtype == np.uint8
        assert fused.shape == (*segmentation.shape, 3)
        assert fused.min() == 0 < fused.max()
        assert len(list((tmp_path / "out" / "attention").iterdir())) == 3


class TestSeveralProcesses:
    @pytest.mark.parametrize("ranks", [3, 100])
    def test_that_cannot_share_the_batch_are_refused_by_one_line_before_they_start(
            self, planned_phantom: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
        monkeypatch.setattr("fuse4seg.launch.subprocess.Popen", None)
        said = refused(planned_phantom, "990", "2d", "0", "-num_gpus", str(ranks))
        assert said.startswith(f"error: -num_gpus: the plans' batch of 4 cannot be shared by {ranks}, which must get equally")

    @pytest.mark.slow
    def test_train_and_validate_as_one_does(self, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Fold all has five cases to validate: three for the first."""
        assert main(["990", "2d", "all", *HARDLY, "-num_gpus", "2", "--root", str(root)]) == 0
        captured = capfd.readouterr()
        assert captured.out == ""
        assert "error" not in captured.err
        fold = root / CHANGED / "fold_all"
        assert captured.err.count("epoch 0: upper ") == 1
        summary = json.loads((fold / "validation" / "summary.json").read_text())
        assert captured.err.splitlines()[-1] == f"Mean Validation Dice: {summary['foreground_mean']['Dice']:.4f}"
        record = json.loads((fold / "validation" / "run.json").read_text())
        assert all({"volumes", "doubt"} <= case.keys() for case in record["cases"].values())
        assert len(record["cases"]) == 5
        assert len(summary["metric_per_case"]) == len(list((fold / "validation").glob("*.nii.gz"))) == 5
        assert not [path for path in fold.rglob(".*") if path.is_file()]
        assert not (fold / "training.lock").exists()

    def test_are_those_that_torchrun_has_started(self, root: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
            monkeypatch.setenv(name, value)
        assert "-num_gpus: 4 is not the 2 that torchrun starts here. Leave it out." in refused(root, "990", "2d", "0",
                                                                                              "-num_gpus", "4")


class TestRefusedDataset:
    def test_that_is_unknown(self, root: Path, refused: Refused) -> None:
        assert "no dataset 4 in " in refused(root, "4", "2d", "0")
        assert "no dataset Dataset990_Other in " in refused(root, "Dataset990_Other", "2d", "0")

    def test_where_there_is_none(self, tmp_path: Path, refused: Refused) -> None:
        assert "no dataset 990 in " in refused(tmp_path, "990", "2d", "0")

    def test_whose_place_is_unknown(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "F4S_ROOT"):
            monkeypatch.delenv(variable, raising=False)
        assert main(["990", "2d", "0", "-device", "cpu"]) == 1
        line, = capsys.readouterr().err.splitlines()
        assert line.startswith("error: nnUNet_raw is not set. Give --root DIR")

    def test_that_is_not_planned(self, root: Path, refused: Refused) -> None:
        plans = root / "nnUNet_preprocessed" / DATASET / "Fuse4SegPlans.json"
        plans.unlink()
        assert f"{plans} is missing. Run f4s_plan_and_preprocess" in refused(root, "990", "2d", "0")

    def test_that_is_not_preprocessed(self, root: Path, refused: Refused) -> None:
        data, = (root / "nnUNet_preprocessed" / DATASET).glob("*_2d")
        shutil.rmtree(data)
        assert f"{data} holds no preprocessed cases. Run f4s_preprocess -c 2d" in refused(root, "990", "2d", "0")

    def test_without_dataset_json(self, root: Path, refused: Refused) -> None:
        (root / "nnUNet_preprocessed" / DATASET / "dataset.json").unlink()
        assert f"{root / 'nnUNet_preprocessed' / DATASET / 'dataset.json'}: is missing" in refused(root, "990", "2d", "0")

    def test_with_too_few_cases_for_folds(self, root: Path, refused: Refused) -> None:
        data, = (root / "nnUNet_preprocessed" / DATASET).glob("*_2d")
        for path in data.glob("phantom_00[34]*"):
            path.unlink()
        line = refused(root, "990", "2d", "0")
        assert f"{DATASET} has 3 training cases, too few for 5 folds. Train fold all" in line


class TestRefusedFlags:
    @pytest.mark.parametrize(("words", "said"), [
        (["3d_lowres", "0"], "has no configuration 3d_lowres. Choose one of: 2d, 3d_fullres"),
        (["2d", "0", "-p", "Mine"], "Mine.json is missing"),
        (["2d", "0", "-tr", "Mine"], "-tr: no trainer Mine"),
        (["2d", "0", "--seed", "-1"], "--seed: must be at least 0"),
        (["2d", "0", "--set", "training.epochs=0"], "--set: training.epochs: must be at least 1, got 0"),
        (["2d", "0", "--set", "pretraining.epochs=-1"], "--set: pretraining.epochs: must be at least 0"),
        (["2d", "0", "--set", "leader.rate=-0.001"], "--set: leader.rate: must be at least 0, got -0.001"),
        (["2d", "0", "--set", "leader.rate=0"], "--set: leader.rate: 0 leaves nothing to train in pre-training."),
        (["2d", "0", "--set", "training.modality_dropout=1"], "modality_dropout: must be from 0 to below 1, got 1"),
        (["2d", "0", "--set", "bilevel.hypergradient=exact"], "there is no 'exact'. Choose from: gauss_newton, joint, none"),
        (["2d", "0", "--set", "follower.features=8"], "follower.features: is decided in planning. Plan anew: f4s_plan"),
        (["2d", "0", "--set", "bilevel"], "--set: bilevel: is no change. Write SECTION.ENTRY=VALUE, as losses.edges=2"),
        (["2d", "0", "--save_every", "0"], "--save_every: 0 is not understood. Give a number of epochs (5), of minutes (30min)"),
        (["2d", "0", "--patience", "0"], "--patience: must be at least 1, got 0."),
        (["2d", "0", "--max_time", "11"], "--max_time: 11 is not understood. Give hours (11h), minutes (90min), or both"),
        (["2d", "0", "--val"], "Finish the training first"),
        (["2d", "0", "-num_gpus", "0"], "-num_gpus: must be at least 1, got 0."),
        (["2d", "0", "--precision", "float16"], "--precision: float16 is not to be had on cpu here. Choose one of: auto"),
        (["2d", "0", "-pretrained_weights", "none.pth"],
         "-pretrained_weights: takes a checkpoint (.pth) or a model's folder, and none.pth is neither: check the path."),
        (["2d", "0", "1", "-pretrained_weights", "none.pth", "--c"],
         "-pretrained_weights: is for a new training, and --c for one that has begun. Leave one of them out."),
    ])
    def test_that_do_not_fit(self, root: Path, refused: Refused, words: list[str], said: str) -> None:
        assert said in refused(root, "990", *words)

    @pytest.mark.parametrize("by", ["flag", "variable"])
    def test_that_need_a_compiler_where_there_is_none(self, root: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch,
                                                      tmp_path: Path, by: str) -> None:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
        if by == "variable":
            monkeypatch.setenv("nnUNet_compile", "1")
        words = ["--compile"] if by == "flag" else []
        with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
            assert "--compile: PyTorch cannot compile here (" in refused(root, "990", "2d", "0", *words)

    def test_of_weights_of_another_dimension(self, root: Path, refused: Refused, trained_model: Path) -> None:
        line = refused(root, "990", "3d_fullres", "0", "-pretrained_weights", str(trained_model))
        assert line == (f"error: {trained_model / 'fold_0' / 'checkpoint_final.pth'}: holds weights of another dimension: for "
                        f"images of 2 axes, and 3d_fullres has 3. Give a model of 3D configurations.\n")

    def test_of_weights_that_hold_code(self, root: Path, refused: Refused, tmp_path: Path) -> None:
        class RunsCode:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (tmp_path / "ran",)

        torch.save({"network_weights": {}, "logging": RunsCode()}, tmp_path / "hostile.pth")
        line = refused(root, "990", "2d", "0", "-pretrained_weights", str(tmp_path / "hostile.pth"))
        assert f"error: {tmp_path / 'hostile.pth'}: damaged, or not plain data" in line
        assert not (tmp_path / "ran").exists()

    def test_of_dropout_where_there_is_one_modality(self, root: Path, refused: Refused) -> None:
        description = root / "nnUNet_preprocessed" / DATASET / "dataset.json"
        content = json.loads(description.read_text())
        description.write_text(json.dumps({**content, "channel_names": {"0": "T1"}}))
        line = refused(root, "990", "2d", "0", "--set", "training.modality_dropout=0.3")
        assert line.endswith("training.modality_dropout: the dataset has one modality, which cannot be left out. Set it to 0.\n")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
    def test_of_a_device_that_is_not_here(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["990", "2d", "0", "-device", "cuda", "--root", str(root)]) == 1
        assert capsys.readouterr().err == ("error: -device cuda is not available here. "
                                           "Use -device cpu, or run where that device is visible.\n")

    @pytest.mark.parametrize("words", [["990", "2d", "-1"], ["990", "2d", "first"], ["990", "2d", "0.5"], ["990", "2d"],
                                       ["990", "2d", "0", "--no_such_flag"], ["990", "2d", "0", "--sets", "losses.edges=3"],
                                       ["990", "2d", "0", "--set"], ["990", "2d", "0", "--c", "--val"],
                                       ["990", "2d", "0", "-device", "tpu"]])
    def test_that_argparse_knows_to_be_wrong(self, words: list[str], root: Path) -> None:
        with pytest.raises(SystemExit, match="2"):
            main([*words, "--root", str(root)])
        assert not list((root / "nnUNet_results").rglob("fold_*"))


class TestRefusedPlace:
    def test_that_holds_a_training(self, trained_root: Path, refused: Refused) -> None:
        fold = trained_root / MODEL / "fold_0"
        assert f"{fold} already holds a training. Go on with --c" in refused(trained_root, "990", "2d", "0")

    @pytest.mark.parametrize("words", [["--c"], ["--val"]])
    def test_that_holds_one_with_other_options(self, trained_root: Path, refused: Refused, words: list[str]) -> None:
        line = refused(trained_root, "990", "2d", "0", *words, "--seed", "5")
        assert "error: --seed: 5 differs from what " in line
        assert str(trained_root / MODEL / "fold_0" / "checkpoint_final.pth") in line

    def test_that_holds_a_damaged_one(self, trained_root: Path, refused: Refused) -> None:
        checkpoint = trained_root / MODEL / "fold_0" / "checkpoint_final.pth"
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
        (checkpoint.parent / "checkpoint_best.pth").unlink()
        assert f"error: {checkpoint}: damaged" in refused(trained_root, "990", "2d", "0", "--c")

    def test_that_cannot_be_written(self, root: Path, refused: Refused) -> None:
        shutil.rmtree(root / "nnUNet_results")
        (root / "nnUNet_results").touch()
        assert f"cannot write to {root / MODEL / 'fold_0'}" in refused(root, "990", "2d", "0")


class TestHelp:
    def test_ends_with_an_example(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="0"):
            main(["--help"])
        assert capsys.readouterr().out.splitlines()[-1] == "  f4s_train 501 2d 0"
