"""f4s_predict, end to end: a folder of patients in, and everything that was promised out, or one line that says why not."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from matplotlib import pyplot as plt
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from fuse4seg.cli.predict import main
from fuse4seg.inference.model import load_model

DATASET = "Dataset990_Phantom"
MODEL = Path("nnUNet_results", DATASET, "Fuse4SegTrainer__Fuse4SegPlans__2d")
CHANNELS = ("T1", "T1ce", "T2", "FLAIR")
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def images(trained_phantom: Path) -> Path:
    """The unseen case phantom_005; leave it as it is."""
    return trained_phantom / "nnUNet_raw" / DATASET / "imagesTs"


@pytest.fixture(scope="module")
def predicted(trained_phantom: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes with everything wanted."""
    output = tmp_path_factory.mktemp("predicted") / "not" / "yet" / "there"
    assert main(["-i", str(images), "-o", str(output), "--root", str(trained_phantom), "-device", "cpu", "--save_attention",
                 "--save_panels"]) == 0
    return output


@pytest.fixture
def case(images: Path, tmp_path: Path) -> Path:
    """A folder with a case of this test's own."""
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    return folder


@pytest.fixture
def refused(trained_phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command, which must fail with one line, which is returned, and write nothing."""

    def run(images: Path, *flags: str, output: Path = tmp_path / "out", root: Path = trained_phantom) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(["-i", str(images), "-o", str(output), "--root", str(root), "-device", "cpu", *flags]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert len(captured.err.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before
        return captured.err

    return run


def read(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(read(path))


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file but the record, which holds times."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != "run.json"}


def assert_same_place(path: Path, original: Path) -> None:
    found, wanted = read(path), read(original)
    assert found.GetSize() == wanted.GetSize()
    for part in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(found, part)() == pytest.approx(getattr(wanted, part)(), abs=1e-5)


class TestPredict:
    def test_writes_what_was_promised_and_nothing_else(self, predicted: Path) -> None:
        files = {str(path.relative_to(predicted)) for path in predicted.rglob("*") if path.is_file()}
        assert files == {"phantom_005.nii.gz", "fused/phantom_005.nii.gz", "fused/grey/phantom_005.nii.gz",
                         "panels/phantom_005.png", "dataset.json", "plans.json", "run.json", "f4s_outputs.json",
                         *(f"attention/phantom_005_{name}.nii.gz" for name in CHANNELS[1:])}

    def test_keeps_the_inputs_geometry(self, predicted: Path, images: Path) -> None:
        for path in predicted.rglob("*.nii.gz"):
            assert_same_place(path, images / "phantom_005_0000.nii.gz")

    def test_keeps_the_inputs_affine(self, predicted: Path, images: Path) -> None:
        wanted = nibabel.load(images / "phantom_005_0000.nii.gz").affine
        for path in predicted.rglob("*.nii.gz"):
            np.testing.assert_allclose(nibabel.load(path).affine, wanted, atol=1e-4)

    def test_writes_known_labels_alone(self, predicted: Path) -> None:
        labels = json.loads((predicted / "dataset.json").read_text())["labels"]
        segmentation = voxels(predicted / "phantom_005.nii.gz")
        assert np.issubdtype(segmentation.dtype, np.integer)
        assert set(np.unique(segmentation)) <= set(labels.values())

    def test_writes_fused_images_in_colour_and_0_outside_the_head_alone(self, predicted: Path, images: Path) -> None:
        """Within the box of the head nnU-Net normalises the background along; it is nearly black there, and not 0."""
        fused, grey = (voxels(predicted / "fused" / folder / "phantom_005.nii.gz") for folder in (".", "grey"))
        sources = np.stack([voxels(path) for path in images.iterdir()])
        head = (sources != 0).any(axis=0)
        box = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(head))
        assert (fused.dtype, fused.shape) == (np.uint8, (*head.shape, 3))
        assert (grey.dtype, grey.shape) == (np.uint8, head.shape)
        assert np.abs(grey - fused @ [0.299, 0.587, 0.114]).max() <= 0.501
        assert fused[head].mean() > 50
        assert fused[box].min() == 1
        fused[box] = 0
        assert not fused.any()

    def test_tells_modalities_apart_by_colour(self, predicted: Path, images: Path) -> None:
        """The first modality is the reddest, the last the bluest, as the leader that hardly learnt starts."""
        fused = voxels(predicted / "fused" / "phantom_005.nii.gz").astype(float)
        first, last = (voxels(images / f"phantom_005_000{number}.nii.gz") for number in (0, 3))
        head = first != 0
        difference = np.subtract(*(image[head] / image[head].std() for image in (first, last)))
        assert np.corrcoef(difference, (fused[..., 0] - fused[..., 2])[head])[0, 1] > 0.7

    def test_writes_attention_around_1(self, predicted: Path, images: Path) -> None:
        maps = np.stack([voxels(predicted / "attention" / f"phantom_005_{name}.nii.gz") for name in CHANNELS[1:]])
        assert maps.min() >= 0
        assert maps[:, maps.any(axis=0)].mean() == pytest.approx(1, abs=0.05)

    def test_writes_a_panel_that_is_a_picture(self, predicted: Path) -> None:
        picture = plt.imread(predicted / "panels" / "phantom_005.png")
        assert picture.ndim == 3
        assert min(picture.shape[:2]) > 100
        assert float(picture[..., :3].std()) > 0.05

    def test_tells_volumes_and_doubt_and_where_the_images_are(self, predicted: Path, images: Path) -> None:
        record = json.loads((predicted / "run.json").read_text())
        assert record["made_by"]["input"] == {"folder": str(images)}
        case = record["cases"]["phantom_005"]
        labels = sitk.ReadImage(str(predicted / "phantom_005.nii.gz"))
        names = json.loads((predicted / "dataset.json").read_text())["labels"]
        voxels, voxel = sitk.GetArrayFromImage(labels), np.prod(labels.GetSpacing()) / 1000
        assert case["volumes"] == {name: pytest.approx((voxels == value).sum() * voxel, rel=1e-5) for name, value in names.items()
                                   if value}
        doubt = case["doubt"]
        assert {name: count > 0 for name, count in doubt["components"].items()} == {
            name: volume > 0 for name, volume in case["volumes"].items()}
        assert 0 < doubt["entropy"] <= np.log(4)
        assert 0 <= doubt["disagreement"] <= 1  # of mirrored copies, as there is one fold
        assert all(deviation is not None for deviation in doubt["size"].values())
        assert 0 < doubt["score"] <= 1

    def test_repeats_byte_for_byte(self, predicted: Path, images: Path, trained_phantom: Path, tmp_path: Path) -> None:
        assert main(["-i", str(images), "-o", str(tmp_path), "--root", str(trained_phantom), "-device", "cpu",
                     "--save_attention", "--save_panels"]) == 0
        assert contents(tmp_path) == contents(predicted)

    def test_takes_nnunets_flags(self, predicted: Path, images: Path, trained_phantom: Path, tmp_path: Path) -> None:
        assert main(["-i", str(images), "-o", str(tmp_path / "out"), "--root", str(trained_phantom), "-d", "990", "-c", "2d",
                     "-f", "0", "-p", "Fuse4SegPlans", "-tr", "Fuse4SegTrainer", "-chk", "checkpoint_best.pth", "-device",
                     "cpu", "-step_size", "1", "--disable_tta"]) == 0
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            "phantom_005.nii.gz", "fused", "f4s_outputs.json", "dataset.json", "plans.json", "run.json"}

    @pytest.mark.parametrize("name", ["a.b", "1_2_3", "with.dots_and_0001", "Müller-7"])
    def test_keeps_odd_case_names(self, name: str, predicted: Path, case: Path, trained_phantom: Path,
                                  tmp_path: Path) -> None:
        for path in list(case.iterdir()):
            path.rename(case / path.name.replace("phantom_005", name))
        (case / "notes.txt").write_text("not a case")
        assert main(["-i", str(case), "-o", str(tmp_path / "out"), "--root", str(trained_phantom), "-device", "cpu",
                     "--disable_tta"]) == 0
        assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {f"{name}.nii.gz"}
        np.testing.assert_array_equal(voxels(tmp_path / "out" / "fused" / f"{name}.nii.gz"),
                                      voxels(predicted / "fused" / "phantom_005.nii.gz"))

    def test_needs_no_training_data(self, images: Path, trained_model: Path, own_results: Path, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copytree(trained_model, own_results / DATASET / trained_model.name)
        for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
            monkeypatch.delenv(variable)
        assert main(["-i", str(images), "-o", str(tmp_path / "out"), "-device", "cpu", "--disable_tta"]) == 0
        assert (tmp_path / "out" / "phantom_005.nii.gz").is_file()


Predict = Callable[..., Path]


class TestMissingModalities:
    @pytest.fixture
    def predict(self, trained_phantom: Path, tmp_path: Path) -> Predict:
        def run(images: Path, *flags: str, output: str = "out") -> Path:
            assert main(["-i", str(images), "-o", str(tmp_path / output), "--root", str(trained_phantom), "-device", "cpu",
                         "--disable_tta", "--allow_missing", *flags]) == 0
            return tmp_path / output

        return run

    def test_are_named_in_the_log_and_beside_the_output(self, predict: Predict, case: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
        for channel in (0, 3):
            (case / f"phantom_005_000{channel}.nii.gz").unlink()
        for path in list(case.iterdir()):
            shutil.copy(path, case / path.name.replace("phantom_005", "another"))
        shutil.copy(case / "another_0001.nii.gz", case / "another_0003.nii.gz")
        output = predict(case)
        missing = {"another": ["T1"], "phantom_005": ["T1", "FLAIR"]}
        assert json.loads((output / "missing_modalities.json").read_text()) == missing
        said = capsys.readouterr().err
        assert "another lacks T1 and is predicted from T1ce, T2, FLAIR\n" in said
        assert "phantom_005 lacks T1, FLAIR and is predicted from T1ce, T2\n" in said
        assert said.count("this model never saw a case without a modality") == 1
        for name in missing:
            assert_same_place(output / f"{name}.nii.gz", case / f"{name}_0001.nii.gz")
            fused = voxels(output / "fused" / f"{name}.nii.gz")
            assert fused.dtype == np.uint8
            assert fused.min() == 0 < fused.max()

    def test_change_what_is_fused(self, predict: Predict, case: Path, predicted: Path) -> None:
        (case / "phantom_005_0003.nii.gz").unlink()
        fused, whole = (voxels(folder / "fused" / "phantom_005.nii.gz").astype(int) for folder in (predict(case), predicted))
        assert np.abs(fused - whole)[whole > 12].mean() > 2.5

    def test_that_are_none_change_no_byte(self, predicted: Path, images: Path, trained_phantom: Path, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["-i", str(images), "-o", str(tmp_path), "--root", str(trained_phantom), "-device", "cpu",
                     "--save_attention", "--save_panels", "--allow_missing"]) == 0
        assert contents(tmp_path) == contents(predicted)
        assert "lacks" not in capsys.readouterr().err

    @pytest.mark.parametrize("flags", [(), ("--allow_missing",)])
    def test_of_an_earlier_run_are_not_told_of_a_complete_one(self, flags: tuple[str, ...], predict: Predict, case: Path,
                                                              images: Path, trained_phantom: Path) -> None:
        (case / "phantom_005_0003.nii.gz").unlink()
        output = predict(case)
        assert (output / "missing_modalities.json").is_file()
        assert main(["-i", str(images), "-o", str(output), "--root", str(trained_phantom), "-device", "cpu", "--disable_tta",
                     *flags]) == 0
        assert not (output / "missing_modalities.json").exists()

    @pytest.mark.parametrize(("absent", "attention"), [((0,), {"T1ce", "T2", "FLAIR"}), ((2,), {"T1ce", "FLAIR"}),
                                                       ((1, 2, 3), set()), ((0, 1, 3), {"T2"})])
    def test_have_no_attention_and_no_place_in_the_panel(self, absent: tuple[int, ...], attention: set[str], predict: Predict,
                                                         case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """T1 is the reference; where it is absent, the mean asks."""
        titles = []
        monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda _, title, **__: titles.append(title))
        for channel in absent:
            (case / f"phantom_005_000{channel}.nii.gz").unlink()
        output = predict(case, "--save_attention", "--save_panels")
        written = {path.name for path in (output / "attention").iterdir()} if (output / "attention").exists() else set()
        assert written == {f"phantom_005_{name}.nii.gz" for name in attention}
        asking = "mean" if 0 in absent else "T1"
        assert titles == [*(name for channel, name in enumerate(CHANNELS) if channel not in absent), "fused",
                          *(f"{asking} looks at {name}" for name in CHANNELS if name in attention), "segmentation"]

    def test_leave_the_images_that_are_there_to_be_checked(self, predict: Predict, refused: Refused, case: Path) -> None:
        (case / "phantom_005_0000.nii.gz").unlink()
        (case / "phantom_005_0002.nii.gz").write_bytes(b"no image")
        assert f"{case / 'phantom_005_0002.nii.gz'} cannot be read as an image" in refused(case, "--allow_missing")

    def test_are_no_channels_too_many(self, refused: Refused, case: Path) -> None:
        (case / "phantom_005_0003.nii.gz").rename(case / "phantom_005_0004.nii.gz")
        assert f"{case / 'phantom_005_0004.nii.gz'} is beyond the dataset's channels" in refused(case, "--allow_missing")

    def test_are_not_all_of_them(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert f"{tmp_path / 'empty'} holds no file *.nii.gz" in refused(tmp_path / "empty", "--allow_missing")


class TestContinue:
    COMMAND = "import sys; from fuse4seg.cli.predict import main; sys.exit(main())"

    @pytest.fixture
    def three(self, case: Path) -> Path:
        """The case under three names."""
        for path in list(case.iterdir()):
            for name in ("a", "b"):
                shutil.copy(path, case / path.name.replace("phantom_005", name))
        return case

    def flags(self, images: Path, output: Path, root: Path) -> list[str]:
        return ["-i", str(images), "-o", str(output), "--root", str(root), "-device", "cpu", "--continue_prediction"]

    @pytest.mark.slow
    def test_after_kills_gives_what_an_undisturbed_run_gives(self, three: Path, trained_phantom: Path, tmp_path: Path) -> None:
        undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
        assert main(self.flags(three, undisturbed, trained_phantom)) == 0
        random, kills = np.random.default_rng(0), 0
        while True:
            run = subprocess.Popen([sys.executable, "-c", self.COMMAND, *self.flags(three, killed, trained_phantom)],
                                   stderr=subprocess.DEVNULL)
            # Loading torch and the model takes seconds of which nothing could be lost: killed once something is there.
            files = len(contents(killed)) if killed.exists() else 0
            while run.poll() is None and not (killed.exists() and len(contents(killed)) > files):
                time.sleep(0.01)
            if run.poll() is not None:
                break
            time.sleep(random.uniform(0, 0.5))
            run.kill()
            run.wait()
            kills += 1
        assert run.returncode == 0
        assert kills
        assert contents(killed) == contents(undisturbed)

    @pytest.mark.slow
    def test_gives_the_same_bytes_by_background_processes(self, three: Path, trained_phantom: Path, tmp_path: Path) -> None:
        """Also where one of the cases is faulty."""
        (three / "b_0001.nii.gz").write_bytes(b"no image")
        for output, processes in (("here", "0"), ("elsewhere", "1")):
            assert main([*self.flags(three, tmp_path / output, trained_phantom), "--disable_tta", "--save_attention",
                         "--save_panels", "--save_probabilities", "npz", "nifti", "-npp", processes, "-nps", processes]) == 1
        assert contents(tmp_path / "elsewhere") == contents(tmp_path / "here")
        assert len(contents(tmp_path / "here")) == 3 + 2 * (1 + 2 + 3 + 1 + 2 + 4)

    def test_refuses_other_options(self, predicted: Path, images: Path, trained_phantom: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
        before = contents(predicted)
        assert main([*self.flags(images, predicted, trained_phantom), "--disable_tta"]) == 1
        assert f"error: --continue_prediction: {predicted / 'run.json'} was made with options" in capsys.readouterr().err
        assert contents(predicted) == before

    def test_does_the_sound_cases_of_a_folder(self, three: Path, trained_phantom: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
        (three / "b_0001.nii.gz").write_bytes((three / "b_0001.nii.gz").read_bytes()[:2000])
        assert main([*self.flags(three, tmp_path / "out", trained_phantom), "--disable_tta"]) == 1
        *_, fault, summary = capsys.readouterr().err.strip().splitlines()
        assert f"{three / 'b_0001.nii.gz'} cannot be read" in fault
        assert summary.startswith("1 faulty case")
        assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz", "phantom_005.nii.gz"}
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        assert {name: entry["status"] for name, entry in record["cases"].items()} == {
            "a": "done", "b": "failed", "phantom_005": "done"}
        assert record["made_by"]["options"]["mirroring"] is False


class TestCascade:
    NAME = "Fuse4SegTrainer__Fuse4SegPlans__3d_cascade_fullres"
    FIRST = "Fuse4SegTrainer__Fuse4SegPlans__3d_lowres"

    @pytest.fixture
    def predict(self, untrained_cascade: Path, tmp_path: Path) -> Callable[..., int]:
        def run(images: Path, *flags: str, output: Path = tmp_path / "out", root: Path = untrained_cascade,
                folds: tuple[str, ...] = ("0",), stage: str = "3d_cascade_fullres") -> int:
            return main(["-i", str(images), "-o", str(output), "--root", str(root), "-c", stage, "-f", *folds, "-device", "cpu",
                         "--precision", "float32", "--disable_tta", "-npp", "0", "-nps", "0", *flags])

        return run

    @pytest.fixture
    def images(self, untrained_cascade: Path, tmp_path: Path) -> Path:
        """The phantom under two names."""
        (tmp_path / "images").mkdir()
        for path in (untrained_cascade / "nnUNet_raw" / DATASET / "imagesTs").iterdir():
            for name in ("a", "b"):
                shutil.copy(path, tmp_path / "images" / path.name.replace("phantom_005", name))
        return tmp_path / "images"

    @pytest.fixture
    def given(self, images: Path, tmp_path: Path) -> Path:
        """A folder with a segmentation of each case."""
        (tmp_path / "given").mkdir()
        for name in ("a", "b"):
            head = read(images / f"{name}_0000.nii.gz")
            segmentation = sitk.GetImageFromArray((voxels(images / f"{name}_0000.nii.gz") > 0).astype(np.uint8))
            segmentation.CopyInformation(head)
            sitk.WriteImage(segmentation, str(tmp_path / "given" / f"{name}.nii.gz"))
        return tmp_path / "given"

    def test_predicts_its_first_stage_and_then_the_second(self, predict: Callable[..., int], images: Path,
                                                          tmp_path: Path) -> None:
        assert predict(images) == 0
        assert predict(images, output=tmp_path / "first", stage="3d_lowres") == 0
        kept = tmp_path / "out" / "previous_stage"
        assert contents(kept) == contents(tmp_path / "first")
        assert len(np.unique(voxels(kept / "a.nii.gz"))) > 1
        assert predict(images, "-prev_stage_predictions", str(kept), output=tmp_path / "second") == 0
        assert contents(tmp_path / "second") == {path: held for path, held in contents(tmp_path / "out").items()
                                                 if path.parts[0] != "previous_stage"}
        for name in ("a", "b"):
            assert_same_place(tmp_path / "out" / f"{name}.nii.gz", images / f"{name}_0000.nii.gz")

    def test_gives_what_stock_nnunet_gives(self, predict: Callable[..., int], images: Path, given: Path, tmp_path: Path,
                                           untrained_cascade: Path) -> None:
        """Of a case as large as one window, of the plans' spacing: nnU-Net, which exports nothing, would resample elsewhere."""
        for path in (*images.iterdir(), *given.iterdir()):
            image = read(path)[4:36, 4:44, 2:30]
            image.SetSpacing((1.3, 1.2, 1.25))
            sitk.WriteImage(image, str(path))
        assert predict(images, "-prev_stage_predictions", str(given), "--save_probabilities") == 0
        ours = load_model(untrained_cascade / "nnUNet_results" / DATASET / self.NAME, folds=[0], device=torch.device("cpu"))
        stock = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        described = ours.description
        stock.manual_initialization(ours.network, described.plans, described.configuration, list(ours.weights),
                                    described.dataset_json, "Fuse4SegTrainer", None)
        (tmp_path / "stock").mkdir()
        stock.predict_from_files_sequential([[str(path) for path in sorted(images.glob("a_*"))]], [str(tmp_path / "stock" / "a")],
                                            save_probabilities=True, folder_with_segs_from_prev_stage=str(given))
        found, wanted = (np.load(tmp_path / folder / "a.npz")["probabilities"] for folder in ("out", "stock"))
        assert len(np.unique(wanted.argmax(axis=0))) > 1
        # nnU-Net adds up in half precision, which has no numbers as small as the weights of a window's corners.
        inner = (slice(None), *[slice(5, -5)] * 3)
        np.testing.assert_allclose(found[inner], wanted[inner], atol=5e-3)

    def test_shows_the_labels_to_the_follower_alone(self, predict: Callable[..., int], images: Path, given: Path) -> None:
        other = read(given / "b.nii.gz")
        sitk.WriteImage(other * 2, str(given / "b.nii.gz"))
        assert predict(images, "-prev_stage_predictions", str(given)) == 0
        output = given.parent / "out"
        np.testing.assert_array_equal(*(voxels(output / "fused" / f"{name}.nii.gz") for name in "ab"))
        assert (voxels(output / "a.nii.gz") != voxels(output / "b.nii.gz")).mean() > 0.01

    def test_says_what_the_first_stage_was(self, predict: Callable[..., int], images: Path, given: Path, tmp_path: Path) -> None:
        (images / "b_0000.nii.gz").unlink()
        assert predict(images, "--allow_missing", "--save_panels") == 0
        record, first = (json.loads((tmp_path / "out" / folder / "run.json").read_text()) for folder in (".", "previous_stage"))
        told = record["made_by"]["previous_stage"]
        assert told == first["made_by"]
        assert (told["model"], told["folds"]) == (self.FIRST, [0])
        assert (told["options"]["panels"], told["options"]["allow_missing"]) == (False, True)
        assert set(record["cases"]["b"]["sources"]) == {f"b_000{channel}.nii.gz" for channel in (1, 2, 3)} | {"b.nii.gz"}
        assert record["cases"]["b"]["absent"] == first["cases"]["b"]["absent"] == ["T1"]
        assert predict(images, "--allow_missing", "-prev_stage_predictions", str(given)) == 0
        assert json.loads((tmp_path / "out" / "run.json").read_text())["made_by"]["previous_stage"] == {"folder": str(given)}

    def test_goes_on_where_either_stage_ended(self, predict: Callable[..., int], images: Path, tmp_path: Path) -> None:
        assert predict(images) == 0
        before, output = contents(tmp_path / "out"), tmp_path / "out"
        (output / "previous_stage" / "b.nii.gz").unlink()
        (output / "a.nii.gz").unlink()
        written = {path: path.stat().st_mtime_ns for path in output.rglob("*.nii.gz") if "fused" not in path.parts}
        assert predict(images, "--continue_prediction") == 0
        assert contents(output) == before
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in written.items())

    def test_predicts_a_case_anew_whose_segmentation_changed(self, predict: Callable[..., int], images: Path, given: Path,
                                                             tmp_path: Path) -> None:
        flags = ("-prev_stage_predictions", str(given), "--continue_prediction")
        assert predict(images, *flags) == 0
        before = contents(tmp_path / "out")
        sitk.WriteImage(read(given / "b.nii.gz") * 2, str(given / "b.nii.gz"))
        assert predict(images, *flags) == 0
        changed = {str(path) for path, held in contents(tmp_path / "out").items() if held != before[path]}
        assert changed == {"b.nii.gz"}

    def test_averages_folds_in_both_stages(self, predict: Callable[..., int], images: Path, tmp_path: Path) -> None:
        for path in images.glob("b_*"):
            path.unlink()
        assert predict(images, folds=("0", "1")) == 0
        for folder in (tmp_path / "out", tmp_path / "out" / "previous_stage"):
            assert {path.name for path in (folder / "fused").iterdir()} == {"fold_0", "fold_1"}
            assert json.loads((folder / "run.json").read_text())["made_by"]["folds"] == [0, 1]

    def test_is_shared_by_parts(self, predict: Callable[..., int], images: Path, tmp_path: Path) -> None:
        assert predict(images, "-num_parts", "2", "-part_id", "1") == 0
        for folder in (tmp_path / "out", tmp_path / "out" / "previous_stage"):
            assert [path.name for path in folder.glob("*.nii.gz")] == ["b.nii.gz"]
            assert (folder / "run_1_of_2.json").is_file()

    @pytest.mark.slow
    def test_gives_the_same_bytes_by_background_processes(self, predict: Callable[..., int], images: Path,
                                                          tmp_path: Path) -> None:
        (images / "b_0001.nii.gz").write_bytes(b"no image")
        for output, processes in (("here", "0"), ("elsewhere", "1")):
            assert predict(images, "-npp", processes, "-nps", processes, output=tmp_path / output) == 1
        assert contents(tmp_path / "elsewhere") == contents(tmp_path / "here")
        assert (tmp_path / "here" / "a.nii.gz").is_file()

    def test_names_a_faulty_case_once_and_predicts_the_others(self, predict: Callable[..., int], images: Path, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
        (images / "b_0001.nii.gz").write_bytes(b"no image")
        assert predict(images) == 1
        *_, fault, summary = capsys.readouterr().err.strip().splitlines()
        assert fault.startswith(f"error: case b: {images / 'b_0001.nii.gz'} cannot be read")
        assert summary.startswith("1 faulty case")
        for folder in (tmp_path / "out", tmp_path / "out" / "previous_stage"):
            assert [path.name for path in folder.glob("*.nii.gz")] == ["a.nii.gz"]
            cases = json.loads((folder / "run.json").read_text())["cases"]
            assert {name: case["status"] for name, case in cases.items()} == {"a": "done", "b": "failed"}

    @pytest.mark.parametrize("fault", ["missing", "elsewhere", "unknown", "damaged"])
    def test_leaves_a_case_out_whose_segmentation_cannot_be_used(self, fault: str, predict: Callable[..., int], images: Path,
                                                                 given: Path, capsys: pytest.CaptureFixture[str]) -> None:
        spoilt = given / "b.nii.gz"
        image = read(spoilt)
        if fault == "elsewhere":
            image.SetOrigin([5, 5, 5])
        sitk.WriteImage(image * 9 if fault == "unknown" else image, str(spoilt))
        if fault == "damaged":
            spoilt.write_bytes(spoilt.read_bytes()[:200])
        if fault == "missing":
            spoilt.unlink()
        assert predict(images, "-prev_stage_predictions", str(given)) == 1
        *_, line, summary = capsys.readouterr().err.strip().splitlines()
        said = {"missing": "there is no segmentation of the previous stage: expected", "elsewhere": "has origin",
                "unknown": "holds the value 9, which the model's dataset.json does not name", "damaged": "cannot be read"}
        assert line.startswith("error: case b: ")
        assert str(spoilt) in line
        assert said[fault] in line
        assert summary.startswith("1 faulty case")
        assert [path.name for path in (given.parent / "out").glob("*.nii.gz")] == ["a.nii.gz"]

    def test_is_refused_without_its_first_stage(self, predict: Callable[..., int], images: Path, tmp_path: Path,
                                                untrained_cascade: Path, capsys: pytest.CaptureFixture[str]) -> None:
        results = Path("nnUNet_results", DATASET)
        shutil.copytree(untrained_cascade / results / self.NAME, tmp_path / results / self.NAME)
        assert predict(images, root=tmp_path) == 1
        line, = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert f"expected {tmp_path / results / self.FIRST}. Train it with f4s_train" in line
        assert not (tmp_path / "out").exists()

    def test_is_refused_with_a_folder_that_is_none(self, predict: Callable[..., int], images: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
        assert predict(images, "-prev_stage_predictions", str(tmp_path / "nowhere")) == 1
        assert capsys.readouterr().err.splitlines() == [f"error: {tmp_path / 'nowhere'} is not a folder. Check the path."]


class TestFiles:
    def test_are_predicted_wherever_they_lie(self, case: Path, predicted: Path, trained_phantom: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        moved = (case / "phantom_005_0002.nii.gz").rename(tmp_path / "elsewhere" / "phantom_005_0002.nii.gz")
        assert main(["-i", str(moved), *map(str, case.iterdir()), "-o", str(tmp_path / "out"), "--root", str(trained_phantom),
                     "-device", "cpu", "--disable_tta"]) == 0
        np.testing.assert_array_equal(voxels(tmp_path / "out" / "fused" / "phantom_005.nii.gz"),
                                      voxels(predicted / "fused" / "phantom_005.nii.gz"))

    def test_of_two_cases_of_one_name_are_refused(self, refused: Refused, images: Path, case: Path) -> None:
        line = refused(images / "phantom_005_0000.nii.gz", *["-i", *map(str, [*images.iterdir(), *case.iterdir()])])
        assert line.startswith("error: case phantom_005 is there twice: ")

    def test_of_another_name_are_refused(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "brain.nii.gz").touch()
        assert f"{tmp_path / 'brain.nii.gz'} is not named CASE_0000.nii.gz" in refused(tmp_path / "brain.nii.gz")

    def test_are_completed_by_what_lies_beside_them(self, case: Path, trained_phantom: Path, tmp_path: Path) -> None:
        shutil.copy(case / "phantom_005_0000.nii.gz", case / "other_0000.nii.gz")
        assert main(["-i", str(case / "phantom_005_0003.nii.gz"), "-o", str(tmp_path / "out"), "--root", str(trained_phantom),
                     "-device", "cpu", "--disable_tta"]) == 0
        assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"phantom_005.nii.gz"}

    def test_of_one_channel_lack_the_others(self, refused: Refused, case: Path) -> None:
        (case / "phantom_005_0000.nii.gz").unlink()
        line = refused(case / "phantom_005_0003.nii.gz")
        assert f"case phantom_005 has no T1 image: expected {case / 'phantom_005_0000.nii.gz'}" in line


class TestRefusedInput:
    def test_that_is_no_folder(self, refused: Refused, images: Path, tmp_path: Path) -> None:
        assert f"{tmp_path / 'nowhere'} is not a folder" in refused(tmp_path / "nowhere")

    def test_that_is_empty(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert f"{tmp_path / 'empty'} holds no file *.nii.gz" in refused(tmp_path / "empty")

    def test_that_lacks_a_channel(self, refused: Refused, case: Path) -> None:
        (case / "phantom_005_0002.nii.gz").unlink()
        line = refused(case)
        assert f"case phantom_005 has no T2 image: expected {case / 'phantom_005_0002.nii.gz'}. " in line
        assert "Add it, remove the case, or predict with --allow_missing." in line

    def test_that_has_a_channel_too_many(self, refused: Refused, case: Path) -> None:
        shutil.copy(case / "phantom_005_0003.nii.gz", case / "phantom_005_0004.nii.gz")
        assert str(case / "phantom_005_0004.nii.gz") in refused(case)

    def test_whose_channels_lie_apart(self, refused: Refused, case: Path) -> None:
        moved = case / "phantom_005_0001.nii.gz"
        image = read(moved)
        image.SetOrigin([place + 5 for place in image.GetOrigin()])
        sitk.WriteImage(image, str(moved))
        line = refused(case)
        assert f"{moved} has origin" in line
        assert "Resample it" in line

    def test_whose_channels_differ_in_size(self, refused: Refused, case: Path) -> None:
        cut = case / "phantom_005_0001.nii.gz"
        sitk.WriteImage(read(cut)[:-1], str(cut))
        assert f"{cut} has shape" in refused(case)

    def test_that_holds_nan(self, refused: Refused, case: Path) -> None:
        spoilt = case / "phantom_005_0003.nii.gz"
        whole = nibabel.load(spoilt)
        array = whole.get_fdata(dtype=np.float32).copy()
        array[16, 20, 20] = np.nan
        nibabel.save(nibabel.Nifti1Image(array, whole.affine), spoilt)
        assert f"{spoilt} holds NaN or infinite intensities. Replace them" in refused(case)

    def test_that_is_constant(self, refused: Refused, case: Path) -> None:
        empty = case / "phantom_005_0000.nii.gz"
        sitk.WriteImage(read(empty) * 0, str(empty))
        assert f"{empty} is constant" in refused(case)

    def test_that_is_truncated(self, refused: Refused, case: Path) -> None:
        cut = case / "phantom_005_0002.nii.gz"
        cut.write_bytes(cut.read_bytes()[:-2000])
        assert f"{cut} cannot be read as an image" in refused(case)

    def test_that_is_no_image(self, refused: Refused, case: Path) -> None:
        (case / "phantom_005_0000.nii.gz").write_bytes(b"no image")
        assert f"{case / 'phantom_005_0000.nii.gz'} cannot be read as an image" in refused(case)


class TestRefusedModel:
    def test_of_an_unknown_dataset(self, refused: Refused, images: Path) -> None:
        assert "no dataset 4 in " in refused(images, "-d", "4")

    @pytest.mark.parametrize("flags", [("-c", "3d_fullres"), ("-f", "3"), ("-f", "all"), ("-p", "Mine"), ("-tr", "Mine"),
                                       ("-chk", "checkpoint_latest.pth")])
    def test_that_is_not_trained(self, refused: Refused, images: Path, flags: tuple[str, str]) -> None:
        line = refused(images, *flags)
        assert line.startswith("error: no trained model")
        assert "Train one with f4s_train" in line

    def test_where_nothing_is_trained(self, refused: Refused, images: Path, tmp_path: Path) -> None:
        assert f"no trained model in {tmp_path / 'nnUNet_results'}" in refused(images, root=tmp_path)

    def test_where_several_are(self, refused: Refused, images: Path, trained_phantom: Path, tmp_path: Path) -> None:
        for trainer in ("Fuse4SegTrainer", "MyTrainer"):
            shutil.copytree(trained_phantom / MODEL, tmp_path / MODEL.with_name(f"{trainer}__Fuse4SegPlans__2d"))
        line = refused(images, root=tmp_path)
        for trainer in ("Fuse4SegTrainer", "MyTrainer"):
            assert f"-d {DATASET} -c 2d -p Fuse4SegPlans -tr {trainer}" in line
        assert main(["-i", str(images), "-o", str(tmp_path / "out"), "--root", str(tmp_path), "-device", "cpu",
                     "--disable_tta", "-tr", "MyTrainer"]) == 0

    def test_that_is_damaged(self, refused: Refused, images: Path, trained_phantom: Path, tmp_path: Path) -> None:
        shutil.copytree(trained_phantom / MODEL, tmp_path / MODEL)
        checkpoint = tmp_path / MODEL / "fold_0" / "checkpoint_final.pth"
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
        assert str(checkpoint) in refused(images, root=tmp_path)

    def test_that_lacks_a_fold(self, refused: Refused, images: Path) -> None:
        assert "no trained model for -f 0 1 in " in refused(images, "-f", "0", "1")

    @pytest.mark.parametrize("change", [lambda arguments: arguments.pop("windows"),
                                        lambda arguments: arguments.update({"invented_later": 1}),
                                        lambda arguments: arguments["leader"]["arch_kwargs"].update(halftone=0.2, sum_share=0.1)])
    def test_of_another_version(self, change: Callable[[dict], object], refused: Refused, images: Path, trained_phantom: Path,
                                tmp_path: Path) -> None:
        model = tmp_path / MODEL
        shutil.copytree(trained_phantom / MODEL, model)
        plans = json.loads((model / "plans.json").read_text())
        change(plans["configurations"]["2d"]["architecture"]["arch_kwargs"])
        plans["fuse4seg"]["version"] = "9.9"
        (model / "plans.json").write_text(json.dumps(plans))
        state = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=True)
        state["init_args"]["plans"] = plans
        torch.save(state, model / "fold_0" / "checkpoint_final.pth")
        message = refused(images, root=tmp_path)
        assert f"{model / 'plans.json'} describes no network that can be built" in message
        assert "made by version 9.9, this is " in message
        assert message.endswith("Plan and train again, or predict with the version that made it.\n")


class TestRefusedOutput:
    def test_below_a_file(self, refused: Refused, images: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert f"cannot write to {tmp_path / 'file' / 'out'}" in refused(images, output=tmp_path / "file" / "out")
        assert f"cannot write to {tmp_path / 'file'}" in refused(images, output=tmp_path / "file")

    def test_that_is_read_only(self, refused: Refused, images: Path, tmp_path: Path) -> None:
        """Nothing keeps root from writing but a file system that takes no files."""
        folder = Path("/proc/self") if os.geteuid() == 0 else tmp_path / "read_only"
        if os.geteuid():
            folder.mkdir(mode=0o500)
        assert f"cannot write to {folder}" in refused(images, output=folder)
        assert f"cannot write to {folder / 'out'}" in refused(images, output=folder / "out")

    def test_on_a_full_disk(self, images: Path, trained_phantom: Path, tmp_path: Path,
                            capsys: pytest.CaptureFixture[str]) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))  # enough for the plans
        try:
            status = main(["-i", str(images), "-o", str(tmp_path), "--root", str(trained_phantom), "-device", "cpu",
                           "--disable_tta"])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert status == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == (f"error: cannot write to {tmp_path / 'fused'} (File too large). "
                        f"Free space, choose another folder, or change its permissions.")
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"dataset.json", "plans.json", "f4s_outputs.json"}

    def test_where_a_file_has_the_name_of_a_folder(self, images: Path, trained_phantom: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "fused").touch()
        assert main(["-i", str(images), "-o", str(tmp_path), "--root", str(trained_phantom), "-device", "cpu",
                     "--disable_tta"]) == 1
        assert f"error: cannot write to {tmp_path / 'fused'}" in capsys.readouterr().err
        assert not list(tmp_path.glob("*.nii.gz"))


class TestRefusedFlags:
    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
    def test_of_a_device_that_is_not_here(self, refused: Refused, images: Path) -> None:
        assert "-device cuda is not available here. Use -device cpu" in refused(images, "-device", "cuda")

    @pytest.mark.parametrize("step", ["0", "-0.5", "1.5", "nan"])
    def test_of_a_step_that_leaves_gaps(self, refused: Refused, images: Path, step: str) -> None:
        assert "error: -step_size: " in refused(images, "-step_size", step)

    @pytest.mark.parametrize("part", ["2", "-1"])
    def test_of_a_part_that_is_none(self, part: str, refused: Refused, images: Path) -> None:
        assert "-part_id: must be one of 0 to num_parts - 1" in refused(images, "-num_parts", "2", "-part_id", part)

    @pytest.mark.parametrize("flags", [["-f", "-1"], ["-f", "first"], ["--no_such_flag"], ["-device", "tpu"], ["--save_att"]])
    def test_that_argparse_knows_to_be_wrong(self, flags: list[str], images: Path, tmp_path: Path) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["-i", str(images), "-o", str(tmp_path / "out"), *flags])
        assert not (tmp_path / "out").exists()

    def test_without_any(self) -> None:
        with pytest.raises(SystemExit, match="2"):
            main([])
