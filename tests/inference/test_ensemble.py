"""Ensembles of folders of probabilities, nnU-Net's label by label, and of models; what does not fit is told in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nnunetv2.ensembling.ensemble import average_probabilities, merge_files
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from fuse4seg.cli.predict import main
from fuse4seg.errors import (
    DatasetJsonError,
    EmptyFolderError,
    FaultyCasesError,
    FaultyImageError,
    FolderNotFoundError,
    OptionError,
    UnpairedCasesError,
)
from fuse4seg.evaluation.postprocessing import Rule, apply_rules, write_rules
from fuse4seg.inference.ensemble import ensemble_folders, to_segmentation
from fuse4seg.inference.export_case import NPZ, Wanted
from fuse4seg.inference.model import ModelDescription

LABELS = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
MakeFolder = Callable[..., Path]
DATASET = "Dataset990_Phantom"
CASE = "phantom_005.nii.gz"
STAGES = ("3d_lowres", "3d_cascade_fullres")


@pytest.fixture
def make_folder(planned_phantom: Path, tmp_path: Path) -> MakeFolder:
    """Function that writes seeded probabilities of cases as a prediction leaves them."""
    plans = json.loads((planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom" / "Fuse4SegPlans.json").read_text())

    def make(name: str, seed: int, *, labels: dict[str, Any] = LABELS, cases: tuple[str, ...] = ("x", "y"),
             shape: tuple[int, int, int] = (3, 6, 5), origin: float = 4.0) -> Path:
        folder, random = tmp_path / name, np.random.default_rng(seed)
        folder.mkdir()
        dataset_json = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
        if "whole" in labels:
            dataset_json["regions_class_order"] = [1, 2]
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
        for case in cases:
            shares = random.random((2 if "whole" in labels else 3, *shape)).astype(np.float32)
            image = sitk.GetImageFromArray(np.zeros(shape, np.uint8))
            image.SetSpacing((1.0, 2.0, 3.0))
            image.SetOrigin((origin, 5, 6))
            sitk.WriteImage(image, str(folder / f"{case}.nii.gz"))
            np.savez_compressed(folder / f"{case}.npz", probabilities=shares)
            save_pickle(SimpleITKIO().read_seg(str(folder / f"{case}.nii.gz"))[1], str(folder / f"{case}.pkl"))
        return folder

    return make


class TestEnsemble:
    @pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
    @pytest.mark.parametrize("shape", [(3, 6, 5), (1, 6, 5)])
    def test_is_nnu_net_s(self, make_folder: MakeFolder, tmp_path: Path, labels: dict[str, Any],
                          shape: tuple[int, int, int]) -> None:
        folders = [make_folder(str(seed), seed, labels=labels, shape=shape) for seed in range(3)]
        written = ensemble_folders(folders, tmp_path / "out", wanted=Wanted(probabilities=(NPZ,)))
        assert written == [tmp_path / "out" / f"{case}.nii.gz" for case in "xy"]
        manager = LabelManager(labels, [1, 2] if labels is REGIONS else None)
        for path in written:
            case = path.name.removesuffix(".nii.gz")
            merge_files([str(folder / f"{case}.npz") for folder in folders], str(tmp_path / case), ".nii.gz", SimpleITKIO(),
                        manager, save_probabilities=True)
            found, wanted = (sitk.ReadImage(str(folder / path.name)) for folder in (tmp_path / "out", tmp_path))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(wanted))
            assert (found.GetOrigin(), found.GetSpacing()) == (wanted.GetOrigin(), wanted.GetSpacing())
            ours, theirs = (np.load(folder / f"{case}.npz")["probabilities"] for folder in (tmp_path / "out", tmp_path))
            np.testing.assert_array_equal(ours, theirs)
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            *(f"{case}{ending}" for case in "xy" for ending in (".nii.gz", ".npz", ".pkl")), "dataset.json", "plans.json",
            "f4s_outputs.json"}

    def test_post_processing_comes_after_the_mean(self, make_description: Callable[..., ModelDescription]) -> None:
        description = make_description("2d")
        shares = np.random.default_rng(0).random((4, 3, 8, 8))
        rules = (Rule("foreground", (1, 2, 3), "largest_component"), Rule("one", (1,), "smallest_volume", 9.0))
        expected = apply_rules(shares.argmax(0), rules, spacing=(1, 1, 1))
        found = to_segmentation(shares, description, rules=rules, spacing=(1, 1, 1))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


class TestWhatDoesNotFit:
    def refused(self, kind: type[Exception], said: str, folders: list[Path], output: Path) -> None:
        with pytest.raises(kind, match=said):
            ensemble_folders(folders, output)
        assert not output.exists()

    def test_folders(self, make_folder: MakeFolder, tmp_path: Path) -> None:
        one, other, out = make_folder("one", 1), make_folder("other", 2, cases=("x",)), tmp_path / "out"
        self.refused(OptionError, "two folders or more", [one], out)
        self.refused(OptionError, "each once", [one, one / ".." / "one"], out)
        self.refused(FolderNotFoundError, "nowhere", [one, tmp_path / "nowhere"], out)
        self.refused(UnpairedCasesError, "lacks 1 image.*y.npz", [one, other], out)
        (tmp_path / "empty").mkdir()
        self.refused(EmptyFolderError, "empty .*--save_probabilities", [one, tmp_path / "empty"], out)
        with pytest.raises(OptionError, match="holds the input"):
            ensemble_folders([one, make_folder("third", 3)], one)

    def test_models_of_other_classes(self, make_folder: MakeFolder, tmp_path: Path) -> None:
        one = make_folder("one", 1)
        other = make_folder("other", 2, labels={"background": 0, "b": 1, "a": 2})
        self.refused(OptionError, "other has the labels .*Ensemble models of the same classes", [one, other], tmp_path / "out")
        (other / "dataset.json").unlink()
        self.refused(DatasetJsonError, "other/dataset.json", [one, other], tmp_path / "out")

    def test_cases_on_other_grids_or_damaged_are_left_out(self, make_folder: MakeFolder, tmp_path: Path) -> None:
        folders = [make_folder("one", 1, cases=("x", "y", "z", "w")), make_folder("other", 2, cases=("x", "y", "z", "w"))]
        moved = make_folder("moved", 3, origin=9.0)
        shutil.copy(moved / "y.nii.gz", folders[1])
        (folders[1] / "x.npz").write_bytes((folders[1] / "x.npz").read_bytes()[:40])
        np.savez(folders[0] / "z.npz", probabilities=np.zeros((2, 3, 6, 5), np.float32))
        with pytest.raises(FaultyCasesError) as raised:
            ensemble_folders(folders, tmp_path / "out")
        lines = str(raised.value).splitlines()
        assert len(lines) == 4
        assert f"{folders[1] / 'x.npz'} cannot be read as probabilities" in "".join(lines)
        assert "origin" in "".join(lines)
        assert "shape (2, 3, 6, 5)" in "".join(lines)
        assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["w.nii.gz"]

    def test_the_only_case(self, make_folder: MakeFolder, tmp_path: Path) -> None:
        folders = [make_folder("one", 1, cases=("x",)), make_folder("other", 2, cases=("x",))]
        np.savez(folders[0] / "x.npz", probabilities=np.full((3, 3, 6, 5), np.nan, np.float32))
        self.refused(FaultyImageError, "case x: .*not finite", folders, tmp_path / "out")

    def test_nothing_pickled_is_read(self, make_folder: MakeFolder, tmp_path: Path) -> None:
        folders = [make_folder("one", 1, cases=("x",)), make_folder("other", 2, cases=("x",))]
        for folder in folders:
            (folder / "x.pkl").write_bytes(b"no pickle")
        ensemble_folders(folders, tmp_path / "sound")
        np.savez(folders[0] / "x.npz", probabilities=np.array([{"a": 1}], dtype=object))
        self.refused(FaultyImageError, "cannot be read as probabilities", folders, tmp_path / "out")


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


class TestOfModels:
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


class TestModelsThatDoNotFit:
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
