"""Prediction by several models: nnU-Net's ensembling of what each predicts alone, with everything that a single one has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.ensembling.ensemble import average_probabilities

from fuse4seg.cli.predict import main
from fuse4seg.evaluation.postprocessing import Rule, apply_rules, write_rules

DATASET = "Dataset990_Phantom"
CASE = "phantom_005.nii.gz"
STAGES = ("3d_lowres", "3d_cascade_fullres")


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def predict(root: Path, output: Path, *flags: str, images: Path | None = None) -> int:
    images = images or root / "nnUNet_raw" / DATASET / "imagesTs"
    return main(["-i", str(images), "-o", str(output), "--root", str(root), "-device", "cpu", "--disable_tta", "-step_size", "1",
                 *flags])


@pytest.fixture(scope="module")
def predicted(untrained_cascade: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unseen phantom by an ensemble of a cascade's two stages."""
    output = tmp_path_factory.mktemp("ensemble") / "out"
    assert predict(untrained_cascade, output, "-c", *STAGES, "-f", "0") == 0
    return output


class TestEnsemble:
    def test_is_the_mean_of_what_each_gives_alone(self, untrained_cascade: Path, predicted: Path, tmp_path: Path) -> None:
        for stage in STAGES:
            assert predict(untrained_cascade, tmp_path / stage, "-c", stage, "-f", "0", "--save_probabilities") == 0
            for name in (CASE, f"fused/{CASE}"):
                assert (predicted / stage / name).read_bytes() == (tmp_path / stage / name).read_bytes()
        mean = average_probabilities([str(tmp_path / stage / "phantom_005.npz") for stage in STAGES])
        np.testing.assert_array_equal(voxels(predicted / CASE), mean.argmax(0))
        image = untrained_cascade / "nnUNet_raw" / DATASET / "imagesTs" / "phantom_005_0000.nii.gz"
        assert sitk.ReadImage(str(predicted / CASE)).GetDirection() == sitk.ReadImage(str(image)).GetDirection()

    def test_writes_each_member_whole_and_its_own_record(self, predicted: Path) -> None:
        assert {path.name for path in predicted.iterdir()} == {*STAGES, CASE, "dataset.json", "plans.json", "run.json",
                                                               "f4s_outputs.json"}
        assert (predicted / STAGES[1] / "previous_stage" / CASE).is_file()
        record = json.loads((predicted / "run.json").read_text())
        assert record["made_by"]["model"] == [f"Fuse4SegTrainer__Fuse4SegPlans__{stage}" for stage in STAGES]
        assert record["made_by"]["folds"] == [[0], [0]]
        assert record["made_by"]["options"]["postprocessing"] == []
        assert set(record["made_by"]["options"]["members"]) == set(STAGES)
        case = record["cases"]["phantom_005"]
        assert (case["status"], case["outputs"]) == ("done", [CASE])
        assert set(case["sources"]) == {f"{stage}/phantom_005.npz" for stage in STAGES}

    def test_has_volumes_and_doubt(self, predicted: Path) -> None:
        case = json.loads((predicted / "run.json").read_text())["cases"]["phantom_005"]
        image = sitk.ReadImage(str(predicted / CASE))
        labels = json.loads((predicted / "dataset.json").read_text())["labels"]
        for name, volume in case["volumes"].items():
            assert volume == pytest.approx((voxels(predicted / CASE) == labels[name]).sum() * np.prod(image.GetSpacing()) / 1000)
        one, other = (voxels(predicted / stage / CASE) for stage in STAGES)
        dice = [2 * ((one == value) & (other == value)).sum() / ((one == value).sum() + (other == value).sum())
                for value in (1, 2, 3) if (one == value).any() or (other == value).any()]
        assert case["doubt"]["disagreement"] == pytest.approx(1 - np.mean(dice), abs=1e-6)
        assert 0 < case["doubt"]["entropy"] <= np.log(4)
        assert 0 < case["doubt"]["score"] <= 1

    def test_goes_on_where_it_was_left(self, untrained_cascade: Path, predicted: Path, tmp_path: Path) -> None:
        output = Path(shutil.copytree(predicted, tmp_path / "out"))
        before = {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")}
        (output / CASE).unlink()
        assert predict(untrained_cascade, output, "-c", *STAGES, "-f", "0", "--continue_prediction") == 0
        assert (output / CASE).read_bytes() == (predicted / CASE).read_bytes()
        assert {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")} == before

    def test_is_post_processed_by_its_own_rules(self, untrained_cascade: Path, predicted: Path, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
        root = Path(shutil.copytree(untrained_cascade, tmp_path / "roots"))
        models = [root / "nnUNet_results" / DATASET / f"Fuse4SegTrainer__Fuse4SegPlans__{stage}" for stage in STAGES]
        rules = [Rule("foreground", (1, 2, 3), "largest_component"), Rule("one", (1,), "smallest_volume", 200.0)]
        write_rules({"rules": [rule.to_plain() for rule in rules]}, models)
        # Not these, which are a member's alone.
        write_rules({"rules": [Rule("foreground", (1, 2, 3), "smallest_volume", 1e9).to_plain()]}, models[:1])
        output = Path(shutil.copytree(predicted, tmp_path / "out"))
        (output / "run.json").unlink()
        assert predict(root, output, "-c", *STAGES, "-f", "0", "--continue_prediction") == 0
        raw = voxels(predicted / CASE)
        spacing = sitk.ReadImage(str(predicted / CASE)).GetSpacing()[::-1]
        found = voxels(output / CASE)
        np.testing.assert_array_equal(found, apply_rules(raw, rules, spacing=spacing))
        assert (found != raw).any()
        assert (output / STAGES[0] / CASE).read_bytes() == (predicted / STAGES[0] / CASE).read_bytes()
        written = json.loads((output / "run.json").read_text())["made_by"]["options"]["postprocessing"]
        assert written == [rule.to_plain() for rule in rules]
        assert "post-processing: foreground: largest_component; one: smallest_volume 200 mm3" in capsys.readouterr().err
        # Other rules are other options.
        assert predict(root, output, "-c", *STAGES, "-f", "0", "--continue_prediction", "--no_postprocessing") == 1
        assert "was made with options" in capsys.readouterr().err


class TestWhatDoesNotFit:
    @pytest.mark.parametrize(("flags", "said"), [
        (("-c", "3d_lowres", "3d_lowres"), "name the same model twice"),
        (("-c", *STAGES, "-p", "A", "B", "C"), "-c: has 2 values, and another flag 3"),
        (("-c", "3d_lowres", "2d"), "no trained model for -c 2d"),
        (("-c", *STAGES, "--report"), "--report: shows a fused image, of which an ensemble has one for each model"),
        (("-c", *STAGES, "--from_fused"), "-c: takes one configuration with --from_fused")])
    def test_flags(self, untrained_cascade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...],
                   said: str) -> None:
        assert predict(untrained_cascade, tmp_path / "out", *flags) == 1
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert said in error
        assert not (tmp_path / "out").exists()

    def test_other_people_s_files(self, untrained_cascade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        theirs = tmp_path / "out" / STAGES[1] / CASE
        theirs.parent.mkdir(parents=True)
        theirs.write_text("theirs")
        assert predict(untrained_cascade, tmp_path / "out", "-c", *STAGES) == 1
        assert f"{theirs} would be replaced" in capsys.readouterr().err
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [theirs]

    def test_a_faulty_case_is_left_out_of_all(self, untrained_cascade: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
        images = Path(shutil.copytree(untrained_cascade / "nnUNet_raw" / DATASET / "imagesTs", tmp_path / "images"))
        for path in sorted(images.iterdir()):
            shutil.copy(path, images / path.name.replace("005", "006"))
        (images / "phantom_006_0002.nii.gz").write_bytes(b"no image")
        assert predict(untrained_cascade, tmp_path / "out", "-c", *STAGES, "-f", "0", images=images) == 1
        error = capsys.readouterr().err
        assert "phantom_006_0002.nii.gz cannot be read" in error
        assert "1 faulty case(s)" in error
        assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == [CASE]
