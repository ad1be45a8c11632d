"""The planning commands: one after the other or at once, one line and status 1 for what cannot be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import SimpleITK as sitk

from fuse4seg.cli import extract_fingerprint, plan_and_preprocess, plan_experiment, preprocess
from fuse4seg.datasets.phantom import write_phantom_dataset
from fuse4seg.planning import fingerprint
from fuse4seg.planning.foreground import draw_foreground

DATASET = "Dataset992_Phantom"
SMALL_MACHINE = ["-gpu_memory_target", "0.1", "--set", "follower.features=8", "patches.largest_batch=4",
                 "-overwrite_plans_name", "Fuse4SegPlans"]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's 10^8 draws take seconds, however small the dataset."""
    monkeypatch.setattr(fingerprint, "draw_foreground", lambda images, segmentation, *, draws:
                        draw_foreground(images, segmentation, draws=min(draws, 1000)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder with a raw phantom dataset of one case."""
    write_phantom_dataset(tmp_path / "nnUNet_raw", dataset_id=992, training_cases=1, test_cases=0, seed=1,
                          shape=(32, 36, 34), modalities=("T1ce", "FLAIR"))
    return tmp_path


class TestPlanningCommands:
    def test_lead_from_raw_to_preprocessed_data(self, root: Path) -> None:
        folder = root / "nnUNet_preprocessed" / DATASET
        everywhere = ["-d", "992", "--root", str(root)]

        assert extract_fingerprint.main([*everywhere, "-np", "1"]) == 0
        assert "intensity_windows_per_channel" in json.loads((folder / "dataset_fingerprint.json").read_text())
        assert plan_experiment.main([*everywhere, *SMALL_MACHINE[:-1], "Mine"]) == 0
        assert json.loads((folder / "Mine.json").read_text())["fuse4seg"]["recipe"]["follower"]["features"] == 8
        assert preprocess.main([*everywhere, "-p", "Mine", "-c", "2d", "-np", "1"]) == 0
        assert (folder / "nnUNetPlans_2d" / "phantom_000.b2nd").is_file()

    def test_do_the_same_at_once(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = root / "nnUNet_preprocessed" / DATASET

        status = plan_and_preprocess.main(["-d", DATASET, "--root", str(root), *SMALL_MACHINE, "-c", "2d", "-np", "1"])

        assert status == 0
        assert (folder / "nnUNetPlans_2d" / "phantom_000.b2nd").is_file()
        captured = capsys.readouterr()
        assert captured.out == ""
        planned = r"^2d: patch \d+ x \d+, batch [24], spacing 1 x 1 mm, features 8 16 32"
        assert re.search(planned, captured.err, re.MULTILINE)

    def test_preprocess_what_they_have_planned_under_whatever_name(self, root: Path) -> None:
        assert plan_and_preprocess.main(["-d", "992", "--root", str(root), *SMALL_MACHINE[:-2], "-c", "2d", "-np", "1"]) == 0
        names = {path.name for path in (root / "nnUNet_preprocessed" / DATASET).iterdir()}
        assert names == {"alignment.json", "dataset.json", "dataset_fingerprint.json", "gt_segmentations", "nnUNetPlans_2d",
                         "Fuse4SegPlans-follower.features=8-patches.largest_batch=4.json"}

    def test_can_stop_after_planning(self, root: Path) -> None:
        assert plan_and_preprocess.main(["-d", "992", "--root", str(root), *SMALL_MACHINE, "--no_pp", "-np", "1"]) == 0

        names = {path.name for path in (root / "nnUNet_preprocessed" / DATASET).iterdir()}
        assert names == {"alignment.json", "dataset.json", "dataset_fingerprint.json", "Fuse4SegPlans.json"}


class TestRefusals:
    @pytest.mark.parametrize(("flags", "flag"), [
        (["--set", "follower.features=3"], "--set: follower.features"), (["--recipe", "sepia"], "--recipe"),
        (["-gpu_memory_target", "0"], "-gpu_memory_target"), (["-np", "0"], "-np"),
        (["--set", "follower.network=transunet"], "--set: follower.network"),
        (["-overwrite_target_spacing", "1", "0", "1"], "-overwrite_target_spacing")])
    def test_name_the_flag_before_a_case_is_read(self, root: Path, capsys: pytest.CaptureFixture[str],
                                                 flags: list[str], flag: str) -> None:
        assert plan_and_preprocess.main(["-d", "992", "--root", str(root), *flags]) == 1

        assert capsys.readouterr().err.startswith(f"error: {flag}: ")
        assert not (root / "nnUNet_preprocessed").exists()

    def test_of_an_unknown_dataset_is_one_line(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert plan_and_preprocess.main(["-d", "4", "--root", str(root)]) == 1

        assert capsys.readouterr().err.startswith("error: no dataset 4 in ")

    def test_of_a_faulty_case_leaves_nothing_behind(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        image = root / "nnUNet_raw" / DATASET / "imagesTr" / "phantom_000_0001.nii.gz"
        sitk.WriteImage(sitk.ReadImage(str(image)) * 0 + 5, str(image))

        assert plan_and_preprocess.main(["-d", "992", "--root", str(root), "-np", "1"]) == 1
        assert "phantom_000" in capsys.readouterr().err
        assert not list((root / "nnUNet_preprocessed" / DATASET).iterdir())

    def test_of_planning_too_early_names_the_mend(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert plan_experiment.main(["-d", "992", "--root", str(root)]) == 1

        assert "Run f4s_extract_fingerprint" in capsys.readouterr().err

    @pytest.mark.parametrize("command", [extract_fingerprint, plan_experiment, preprocess, plan_and_preprocess])
    def test_of_an_unknown_flag_are_argparses(self, command: ModuleType) -> None:
        with pytest.raises(SystemExit, match="2"):
            command.main(["-d", "992", "--no_such_flag"])


class TestHelp:
    @pytest.mark.parametrize("command", [extract_fingerprint, plan_experiment, preprocess, plan_and_preprocess])
    def test_ends_with_an_example(self, command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="0"):
            command.main(["--help"])

        assert f"f4s_{command.__name__.rsplit('.', 1)[-1]} -d 501" in capsys.readouterr().out.splitlines()[-1]
