"""Predicting a folder: every input is checked first, every output has the input's grid, every fold its fused image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from PIL import Image as Picture

from fuse4seg.errors import FaultyCasesError, OptionError
from fuse4seg.inference import predict_folder as module
from fuse4seg.inference.export_case import Export, Wanted
from fuse4seg.inference.model import Model, load_model
from fuse4seg.inference.predict_case import CasePrediction, predict_case
from fuse4seg.inference.predict_folder import Conduct, claim_exports, predict_folder
from fuse4seg.inference.run_record import RunRecord

Load = Callable[..., Model]


@pytest.fixture
def images(trained_phantom: Path, tmp_path: Path) -> Path:
    """Two unseen cases, of which the second is the first."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in (trained_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs").iterdir():
        for case in ("first", "second"):
            shutil.copy(path, folder / path.name.replace("phantom_005", case))
    return folder


@pytest.fixture
def load(trained_model: Path) -> Load:
    def load_folds(*folds: int, model: Path = trained_model) -> Model:
        return load_model(model, folds=folds, device=torch.device("cpu"), mirroring=False)

    return load_folds


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    (tmp_path / "out").mkdir()
    return RunRecord(tmp_path / "out" / "run.json", {})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[CasePrediction]:
    """What was made of every case, in their order."""
    kept: list[CasePrediction] = []

    def keep(*given: Any, **named: Any) -> CasePrediction:
        kept.append(predict_case(*given, **named))
        return kept[-1]

    monkeypatch.setattr(module, "predict_case", keep)
    return kept


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


class TestPredictFolder:
    def test_gives_the_segmentation_of_every_case(self, images: Path, tmp_path: Path,
                                                  load: Load) -> None:
        written = predict_folder(load(0), images, tmp_path / "out", folds=(0,))
        assert written == [tmp_path / "out" / "first.nii.gz", tmp_path / "out" / "second.nii.gz"]
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"first.nii.gz", "second.nii.gz", "fused",
                                                                      "dataset.json", "plans.json", "f4s_outputs.json"}
        np.testing.assert_array_equal(*map(voxels, written))

    def test_says_with_what_it_predicted(self, images: Path, tmp_path: Path, trained_model: Path,
                                         load: Load) -> None:
        predict_folder(load(0), images, tmp_path / "out", folds=(0,))
        for name in ("dataset.json", "plans.json"):
            found, wanted = (json.loads((folder / name).read_text()) for folder in (tmp_path / "out", trained_model))
            assert found == wanted

    def test_exports_what_the_follower_saw(self, images: Path, tmp_path: Path, load: Load, made: list[CasePrediction]) -> None:
        predict_folder(load(0), images, tmp_path / "out", folds=(0,))
        _, second = made
        exported = voxels(tmp_path / "out" / "fused" / "second.nii.gz")
        np.testing.assert_array_equal(exported, np.moveaxis(second.fused[0], 0, -1))
        sources = np.stack([voxels(path) for path in images.glob("second_*")])
        inside = [np.flatnonzero((sources != 0).any(axis=(0, *(1 + other for other in range(3) if other != axis))))
                  for axis in range(3)]
        box = tuple(slice(places[0], places[-1] + 1) for places in inside)
        assert exported[box].min() > 0
        exported[box] = 0
        assert not exported.any()

    def test_exports_each_folds_own_image_and_averages_the_folds(self, images: Path, tmp_path: Path, trained_model: Path,
                                                                 load: Load) -> None:
        model = tmp_path / "model"
        shutil.copytree(trained_model, model)
        shutil.copytree(model / "fold_0", model / "fold_1")
        checkpoint = model / "fold_1" / "checkpoint_final.pth"
        state = torch.load(checkpoint, weights_only=True)
        state["network_weights"]["fusion.gate.tint_share.bias"] += 9
        torch.save(state, checkpoint)

        predict_folder(load(0, 1, model=model), images, tmp_path / "out", folds=(0, 1),
                       wanted=Wanted(attention=True, panels=True))
        predict_folder(load(1, model=model), images, tmp_path / "alone", folds=(1,))
        first, second = (voxels(tmp_path / "out" / "fused" / f"fold_{fold}" / "first.nii.gz") for fold in (0, 1))
        assert np.abs(first.astype(int) - second).max() > 25
        np.testing.assert_array_equal(second, voxels(tmp_path / "alone" / "fused" / "first.nii.gz"))
        for place in ("attention", "panels"):
            assert {path.name for path in (tmp_path / "out" / place).iterdir()} == {"fold_0", "fold_1"}

    @pytest.mark.parametrize(("reference", "others"), [(0, ("T1ce", "T2", "FLAIR")), (1, ("T1", "T2", "FLAIR")),
                                                       (3, ("T1", "T1ce", "T2"))])
    def test_names_attention_after_the_modalities_that_the_reference_looks_at(
            self, reference: int, others: tuple[str, ...], images: Path, tmp_path: Path, load: Load,
            made: list[CasePrediction]) -> None:
        model = load(0)
        leader = model.network.fusion
        leader.reference = leader.cross_attention.reference = reference
        predict_folder(model, images, tmp_path / "out", folds=(0,), wanted=Wanted(attention=True))
        assert len(list((tmp_path / "out" / "attention").iterdir())) == 2 * len(others)
        for name, heat in zip(others, made[1].attention[0], strict=True):
            exported = voxels(tmp_path / "out" / "attention" / f"second_{name}.nii.gz")
            np.testing.assert_array_equal(np.sort(exported[exported > 0]), np.sort(heat[heat > 0]))

    def test_keeps_pages_and_spacing_of_tiff(self, images: Path, tmp_path: Path,
                                             load: Load) -> None:
        predict_folder(load(0), images, tmp_path / "nifti", folds=(0,))
        for path in images.glob("*.nii.gz"):
            tifffile.imwrite(images / path.name.replace(".nii.gz", ".tif"), voxels(path))
            path.unlink()
        for case in ("first", "second"):
            (images / f"{case}.json").write_text('{"spacing": [1, 1, 1]}')
        model = load(0)
        model.description.dataset_json["file_ending"] = ".tif"
        model.description.plans.plans["image_reader_writer"] = "Tiff3DIO"

        written = predict_folder(model, images, tmp_path / "out", folds=(0,))
        np.testing.assert_array_equal(tifffile.imread(written[0]), voxels(tmp_path / "nifti" / "first.nii.gz"))
        for file in ("first", "grey/first"):
            np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "fused" / f"{file}.tif"),
                                          voxels(tmp_path / "nifti" / "fused" / f"{file}.nii.gz"))
        for path in (tmp_path / "out" / "first.json", tmp_path / "out" / "fused" / "first.json"):
            assert json.loads(path.read_text()) == {"spacing": [1, 1, 1]}
        assert not list((tmp_path / "out").rglob(".*"))

    @pytest.mark.parametrize(("ending", "reader"), [(".tif", "Tiff3DIO"), (".nrrd", "SimpleITKIO"), (".mha", "SimpleITKIO")])
    def test_gives_probabilities_of_every_format_as_nifti(self, images: Path, tmp_path: Path, load: Load, ending: str,
                                                          reader: str) -> None:
        for path in images.glob("*.nii.gz"):
            name = path.name.replace(".nii.gz", ending)
            if ending == ".tif":
                tifffile.imwrite(images / name, voxels(path))
                (images / f"{path.name[:-len('_0000.nii.gz')]}.json").write_text('{"spacing": [2, 1, 0.5]}')
            else:
                image = sitk.ReadImage(str(path))
                image.SetDirection((1, 0, 0, 0, 1, 0.2588, 0, 0, 0.9659))  # a gantry tilted by 15 degrees
                sitk.WriteImage(image, str(images / name))
            path.unlink()
        model = load(0)
        model.description.dataset_json["file_ending"] = ending
        model.description.plans.plans["image_reader_writer"] = reader
        path, _ = predict_folder(model, images, tmp_path / "out", folds=(0,), wanted=Wanted(probabilities=("nifti",)))
        shares = [sitk.ReadImage(str(found)) for found in (tmp_path / "out" / "probabilities").glob("first_*.nii.gz")]
        assert {share.GetPixelID() for share in shares} == {sitk.sitkFloat32}
        np.testing.assert_allclose(sum(map(sitk.GetArrayFromImage, shares)), 1, atol=1e-3)
        if ending == ".tif":
            assert shares[0].GetSpacing() == (0.5, 1, 2)
            return
        source = sitk.ReadImage(str(images / f"first_0000{ending}"))
        for place in (path, tmp_path / "out" / "fused" / f"first{ending}"):
            assert sitk.ReadImage(str(place)).GetDirection() == pytest.approx(source.GetDirection())
        axes = np.diag([-1, -1, 1]) @ np.reshape(source.GetDirection(), (3, 3)) * source.GetSpacing()
        found = next((tmp_path / "out" / "probabilities").glob("first_*.nii.gz"))
        np.testing.assert_allclose(nibabel.load(found).affine[:3, :3], axes, atol=1e-5)

    def test_logs_the_volume_of_each_label(self, images: Path, tmp_path: Path, load: Load,
                                           caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO"):
            path, _ = predict_folder(load(0), images, tmp_path / "out", folds=(0,))
        labels = json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]
        counts = ", ".join(f"{name} {int((voxels(path) == value).sum())} voxels" for name, value in labels.items()
                           if name != "background")
        assert f"first: {counts}" in caplog.text

    def test_leaves_a_faulty_case_out_and_says_so(self, images: Path, tmp_path: Path, load: Load,
                                                  record: RunRecord) -> None:
        faulty = images / "second_0003.nii.gz"
        sitk.WriteImage(sitk.ReadImage(str(faulty)) * 0, str(faulty))
        with pytest.raises(FaultyCasesError, match=f"case second: {faulty} is constant.*\n1 faulty case"):
            predict_folder(load(0), images, tmp_path / "out", folds=(0,), record=record)
        assert (tmp_path / "out" / "first.nii.gz").is_file()
        assert not list((tmp_path / "out").rglob("second*"))
        assert {name: case["status"] for name, case in record.cases.items()} == {"first": "done", "second": "failed"}

    def test_leaves_out_16_bits_that_a_channel_of_8_does_not_take(self, images: Path, tmp_path: Path,
                                                                  make_untrained: Callable[..., Path]) -> None:
        for path in images.glob("*.nii.gz"):
            levels = np.rint(np.interp(found := voxels(path)[16], (found.min(), found.max()), (0, 255))).astype(np.uint8)
            deep = path.name == "second_0002.nii.gz"
            Picture.fromarray(levels * np.uint16(200) if deep else levels).save(images / path.name.replace(".nii.gz", ".png"))
        root = make_untrained("2d", ending=".png", reader="NaturalImage2DIO")
        (folder,) = (root / "nnUNet_results" / "Dataset990_Phantom").iterdir()
        model = load_model(folder, folds=(0,), device=torch.device("cpu"), mirroring=False)
        model.description.dataset_json["normalization"] = dict.fromkeys("0123", "rgb_to_0_1")
        model.description.configuration.configuration["normalization_schemes"] = ["RGBTo01Normalization"] * 4
        said = rf"case second: {images / 'second_0002.png'} holds intensities from 0 to 51000, and its channel takes 0 to 255"
        with pytest.raises(FaultyCasesError, match=said):
            predict_folder(model, images, tmp_path / "out", folds=(0,))
        assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["first.png"]

    @pytest.mark.parametrize("allow_missing", [False, True])
    def test_leaves_a_case_out_whose_links_lead_nowhere(self, images: Path, tmp_path: Path, load: Load,
                                                        allow_missing: bool) -> None:
        for path in images.glob("second*"):
            path.unlink()
            path.symlink_to(tmp_path / "moved" / path.name)
        with pytest.raises(FaultyCasesError, match="case second.*second_0000"):
            predict_folder(load(0), images, tmp_path / "out", folds=(0,), conduct=Conduct(allow_missing=allow_missing))
        assert (tmp_path / "out" / "first.nii.gz").is_file()
        assert not list((tmp_path / "out").rglob("second*"))

    def test_writes_a_case_whose_name_ends_as_a_file_does(self, images: Path, tmp_path: Path, load: Load) -> None:
        for path in images.glob("second*"):
            path.rename(images / path.name.replace("second", "second.nii"))
        predict_folder(load(0), images, tmp_path / "out", folds=(0,), wanted=Wanted(attention=True))
        first, second = ({path.relative_to(tmp_path / "out").as_posix().replace(f"{name}", "") for path in
                          (tmp_path / "out").rglob(f"{name}[._]*")} for name in ("first", "second.nii"))
        assert first == second
        np.testing.assert_array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz")))
                                        for name in ("first", "second.nii")))

    def test_leaves_a_case_out_that_memory_does_not_hold(self, images: Path, tmp_path: Path, record: RunRecord, load: Load,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []

        def too_much(*given: Any, **named: Any) -> CasePrediction:
            calls.append(given)
            if len(calls) == 1:
                raise torch.OutOfMemoryError
            return predict_case(*given, **named)

        monkeypatch.setattr(module, "predict_case", too_much)
        with pytest.raises(FaultyCasesError, match="case first: there was not enough memory"):
            predict_folder(load(0), images, tmp_path / "out", folds=(0,), record=record)
        assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["second.nii.gz"]

    def test_writes_nothing_where_no_case_is_sound(self, images: Path, tmp_path: Path,
                                                   load: Load) -> None:
        for path in images.glob("*_0003.nii.gz"):
            path.unlink()
        with pytest.raises(FaultyCasesError, match="2 faulty case"):
            predict_folder(load(0), images, tmp_path / "out", folds=(0,))
        assert not (tmp_path / "out").exists()

    def test_does_nothing_twice(self, images: Path, tmp_path: Path, load: Load, record: RunRecord,
                                caplog: pytest.LogCaptureFixture) -> None:
        written = predict_folder(load(0), images, tmp_path / "out", folds=(0,), record=record)
        before = [path.stat().st_mtime_ns for path in written]
        written[0].unlink()
        with caplog.at_level("INFO"):
            assert predict_folder(load(0), images, tmp_path / "out", folds=(0,), record=record) == written
        assert "1 of 2 cases are predicted already" in caplog.text
        assert written[0].stat().st_mtime_ns > before[1] == written[1].stat().st_mtime_ns
        np.testing.assert_array_equal(*map(voxels, written))

    def test_in_parts_predicts_every_case_once(self, images: Path, tmp_path: Path,
                                               load: Load) -> None:
        parts = [predict_folder(load(0), images, tmp_path / "out", folds=(0,), conduct=Conduct(part=(number, 3)))
                 for number in range(3)]
        assert [[path.name for path in part] for part in parts] == [["first.nii.gz"], ["second.nii.gz"], []]

    def test_gives_probabilities_that_the_segmentation_is_the_largest_of(self, images: Path, tmp_path: Path,
                                                                         load: Load) -> None:
        path, _ = predict_folder(load(0), images, tmp_path / "out", folds=(0,), wanted=Wanted(probabilities=("npz",)))
        probabilities = np.load(tmp_path / "out" / "first.npz")["probabilities"]
        np.testing.assert_array_equal(probabilities.argmax(axis=0), voxels(path))
        np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-3)
        assert (tmp_path / "out" / "first.pkl").is_file()

    def test_gives_probabilities_as_images(self, images: Path, tmp_path: Path, load: Load) -> None:
        path, _ = predict_folder(load(0), images, tmp_path / "out", folds=(0,), wanted=Wanted(probabilities=("nifti",)))
        folder = tmp_path / "out" / "probabilities"
        labels = json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]
        shares = np.stack([voxels(folder / f"first_{name}.nii.gz") for name in labels])
        np.testing.assert_array_equal(shares.argmax(axis=0), voxels(path))
        np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-3)
        assert len(list(folder.iterdir())) == 2 * len(labels)
        assert not list((tmp_path / "out").glob("*.npz"))

    def test_measures_a_legend_for_panels_in_colour_alone(self, images: Path, tmp_path: Path, load: Load,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
        measured: list[Model] = []

        def measure(model: Model, channels: torch.Tensor, **_: Any) -> np.ndarray:
            measured.append(model)
            return np.eye(4, 3)

        monkeypatch.setattr(module, "measure_legend", measure)
        predict_folder(load(0), images, tmp_path / "out", folds=(0,))
        assert measured == []
        predict_folder(load(0), images, tmp_path / "out", folds=(0,), wanted=Wanted(panels=True))
        assert len(measured) == 2


class TestWhatIsThereAlready:
    """Only what this tool wrote is replaced."""

    EVERYTHING = Wanted(attention=True, panels=True, probabilities=("npz", "nifti"))

    @pytest.mark.parametrize("name", [
        "first.nii.gz", "second.npz", "first.pkl", "dataset.json", "plans.json", "run.json", "missing_modalities.json",
        "fused/first.nii.gz", "fused/grey/second.nii.gz", "panels/first.png", "attention/first_T1ce.nii.gz",
        "probabilities/first_oedema.nii.gz"])
    def test_of_other_people_ends_the_run_before_it_begins(self, images: Path, tmp_path: Path, load: Load,
                                                           made: list[CasePrediction], name: str) -> None:
        place = tmp_path / "out" / name
        place.parent.mkdir(parents=True)
        place.write_bytes(b"theirs")
        with pytest.raises(OptionError, match=f"{name} would be replaced.*--overwrite"):
            predict_folder(load(0), images, tmp_path / "out", folds=(0,), wanted=self.EVERYTHING)
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [place]
        assert (place.read_bytes(), made) == (b"theirs", [])

    def test_of_other_people_is_replaced_on_demand_and_what_has_other_names_stays(self, images: Path, tmp_path: Path,
                                                                                  load: Load) -> None:
        (tmp_path / "out").mkdir()
        for name in ("first.nii.gz", "notes.txt", "third.nii.gz"):
            (tmp_path / "out" / name).write_bytes(b"theirs")
        path, _ = predict_folder(load(0), images, tmp_path / "out", folds=(0,), conduct=Conduct(overwrite=True))
        assert voxels(path).ndim == 3
        assert {(tmp_path / "out" / name).read_bytes() for name in ("notes.txt", "third.nii.gz")} == {b"theirs"}

    def test_of_this_tool_is_replaced_after_an_interruption_and_with_other_cases(
            self, images: Path, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            # After the first case's files, before any record of the case.
            patched.setattr(module.FolderRun, "_note", stop)
            with pytest.raises(KeyboardInterrupt):
                predict_folder(load(0), images, tmp_path / "out", folds=(0,))
        assert (tmp_path / "out" / "first.nii.gz").is_file()
        for path in images.glob("second*"):
            path.rename(images / path.name.replace("second", "third"))
        for _ in range(2):
            assert [path.name for path in predict_folder(load(0), images, tmp_path / "out", folds=(0,))] == [
                "first.nii.gz", "third.nii.gz"]
        (tmp_path / "out" / "third.nii.gz").unlink()
        (tmp_path / "out" / "fourth.nii.gz").write_bytes(b"theirs")
        for path in images.glob("third*"):
            path.rename(images / path.name.replace("third", "fourth"))
        with pytest.raises(OptionError, match=r"fourth\.nii\.gz would be replaced"):
            predict_folder(load(0), images, tmp_path / "out", folds=(0,))

    def test_is_no_place_if_it_is_the_input_or_a_raw_dataset(self, images: Path, tmp_path: Path, load: Load) -> None:
        dataset = tmp_path / "Dataset001_Theirs"
        images = images.rename(dataset.with_name("imagesTs"))
        dataset.mkdir()
        (dataset / "dataset.json").write_text("{}")
        images = images.rename(dataset / "imagesTs")
        before = sorted(dataset.rglob("*"))
        for output, problem in ((images, "holds the input"), (dataset, "belongs to the raw dataset"),
                                (dataset / "labelsTs", "belongs to the raw dataset")):
            with pytest.raises(OptionError, match=problem):
                predict_folder(load(0), images, output, folds=(0,))
        with pytest.raises(OptionError, match="holds the input"):
            predict_folder(load(0), sorted(images.iterdir()), images, folds=(0,))
        assert sorted(dataset.rglob("*")) == before
        predict_folder(load(0), images, dataset / "labelsTs", folds=(0,), conduct=Conduct(overwrite=True))
        assert (dataset / "labelsTs" / "first.nii.gz").is_file()

    @pytest.mark.parametrize(("cases", "ending", "said"), [
        (("c5", "c5_a"), ".nii.gz", r"probabilities/c5_a_b\.nii\.gz would be written for case c5 and case c5_a\. Rename"),
        (("a", "dataset"), ".tif", r"dataset\.json would be written for the run and case dataset\. Rename")])
    def test_two_that_would_be_one_file_are_refused(self, tmp_path: Path, load: Load, cases: tuple[str, str], ending: str,
                                                    said: str) -> None:
        description = load(0).description
        description.dataset_json.update(labels={"background": 0, "a_b": 1, "b": 2}, file_ending=ending)
        export = Export(description, tmp_path / "out", (0,), 0, self.EVERYTHING)
        with pytest.raises(OptionError, match=said):
            claim_exports(cases, export)
        assert claim_exports(["c5", "c6"], export).names > {"probabilities/c5_a_b.nii.gz", "probabilities/c6_b.nii.gz"}
