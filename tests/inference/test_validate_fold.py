"""Validation of a fold: its cases and no other, predicted as f4s_predict predicts, scored as f4s_evaluate scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from fuse4seg.cli import predict, train
from fuse4seg.evaluation.folders import evaluate_folders
from fuse4seg.inference.image_files import read_fused
from fuse4seg.inference.model import Model
from fuse4seg.inference.model_calibration import model_calibration, write_doubts
from fuse4seg.inference.predict_case import predict_case
from fuse4seg.inference.validate_fold import validate_fusion, validate_segmentations
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

MakeNetwork = Callable[..., FuseThenSegment]
MakeLoaded = Callable[..., Model]
MODEL = Path("Dataset990_Phantom", "Fuse4SegTrainer__Fuse4SegPlans__2d")


@pytest.fixture
def validated_case(trained_phantom: Path) -> str:
    """The one validation case of fold 0."""
    splits = json.loads((trained_phantom / "nnUNet_preprocessed" / MODEL.parent / "splits_final.json").read_text())
    case, = splits[0]["val"]
    return case


class TestValidation:
    def test_predicts_the_folds_cases_alone(self, trained_model: Path, validated_case: str) -> None:
        folder = trained_model / "fold_0" / "validation"
        names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert {name for name in names if not name.startswith("report/")} == {
            f"{validated_case}.nii.gz", f"fused/{validated_case}.nii.gz", f"fused/grey/{validated_case}.nii.gz",
            "summary.json", "run.json", "doubt.json"}

    def test_scores_as_our_evaluation_does(self, trained_model: Path, trained_phantom: Path, validated_case: str) -> None:
        folder = trained_model / "fold_0" / "validation"
        dataset_json = json.loads((trained_model / "dataset.json").read_text())
        references = folder.parent / "references"
        references.mkdir()
        truth = trained_phantom / "nnUNet_raw" / MODEL.parent / "labelsTr" / f"{validated_case}.nii.gz"
        shutil.copy(truth, references)
        evaluation = evaluate_folders(folder, references, dataset_json=dataset_json)
        shutil.rmtree(references)

        summary = json.loads((folder / "summary.json").read_text())
        nnunets = [scores["Dice"] for _, scores in sorted(summary["metric_per_case"][0]["metrics"].items())]
        ours = [scores.values["Dice"] for scores in evaluation.cases[validated_case].values()]
        assert ours == pytest.approx(nnunets, abs=1e-12, nan_ok=True)
        assert list(evaluation.class_means().values()) == pytest.approx(nnunets, abs=1e-12, nan_ok=True)
        assert evaluation.foreground_mean() == pytest.approx(summary["foreground_mean"]["Dice"], abs=1e-12)

    def test_writes_nnu_net_s_own_summary(self, trained_model: Path, trained_phantom: Path, tmp_path: Path) -> None:
        folder = trained_model / "fold_0" / "validation"
        references = trained_phantom / "nnUNet_preprocessed" / MODEL.parent / "gt_segmentations"
        nnunets = tmp_path / "summary.json"
        compute_metrics_on_folder(str(references), str(folder), str(nnunets), SimpleITKIO(), ".nii.gz", [1, 2, 3],
                                  num_processes=1)
        # As text, because NaN is not equal to itself.
        ours, theirs = (json.dumps(json.loads(path.read_text()), sort_keys=True) for path in (folder / "summary.json", nnunets))
        assert ours == theirs

    def test_tells_what_it_was_made_of_and_what_is_doubtful(self, trained_model: Path, trained_phantom: Path,
                                                            validated_case: str) -> None:
        folder = trained_model / "fold_0" / "validation"
        record, summary = (json.loads((folder / name).read_text()) for name in ("run.json", "summary.json"))
        assert record["made_by"]["input"] == {"folder": str(trained_phantom / "nnUNet_raw" / MODEL.parent / "imagesTr")}
        assert (record["made_by"]["folds"], "calibration" in record["made_by"]) == ([0], False)
        case = record["cases"][validated_case]
        assert case["outputs"] == [f"fused/grey/{validated_case}.nii.gz", f"fused/{validated_case}.nii.gz",
                                   f"{validated_case}.nii.gz"]
        labels = sitk.ReadImage(str(folder / f"{validated_case}.nii.gz"))
        voxels, voxel = sitk.GetArrayFromImage(labels), np.prod(labels.GetSpacing()) / 1000
        names = json.loads((trained_model / "dataset.json").read_text())["labels"]
        assert case["volumes"] == {name: pytest.approx((voxels == value).sum() * voxel) for name, value in names.items() if value}
        assert 0 <= case["doubt"]["disagreement"] <= 1
        assert 0 <= case["doubt"]["entropy"] <= np.log(4)
        told, = json.loads((folder / "doubt.json").read_text())
        dice = [scores["Dice"] for scores in summary["metric_per_case"][0]["metrics"].values()]
        assert told == {"dice": pytest.approx(np.nanmean(dice)), "doubt": case["doubt"]["score"],
                        "volume": pytest.approx(sum(case["volumes"].values()))}

    def test_predicts_exactly_what_the_command_predicts(self, trained_model: Path, trained_phantom: Path, tmp_path: Path,
                                                        validated_case: str) -> None:
        (tmp_path / "in").mkdir()
        for path in (trained_phantom / "nnUNet_raw" / MODEL.parent / "imagesTr").glob(f"{validated_case}_*"):
            shutil.copy(path, tmp_path / "in")
        assert predict.main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--root", str(trained_phantom),
                             "-device", "cpu"]) == 0
        for place, channels in (("", 1), ("fused", 3), ("fused/grey", 1)):
            found, wanted = (sitk.ReadImage(str(folder / place / f"{validated_case}.nii.gz"))
                             for folder in (tmp_path / "out", trained_model / "fold_0" / "validation"))
            assert found.GetNumberOfComponentsPerPixel() == wanted.GetNumberOfComponentsPerPixel() == channels
            np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(wanted))

    def test_can_be_repeated_and_passes_over_cases_of_another_split(self, trained_model: Path, own_results: Path,
                                                                    validated_case: str) -> None:
        shutil.copytree(trained_model, own_results / MODEL)
        folder = own_results / MODEL / "fold_0" / "validation"
        before = (folder / f"{validated_case}.nii.gz").read_bytes()
        scores = json.loads((folder / "summary.json").read_text())["foreground_mean"]
        others = [folder / place / "phantom_999.nii.gz" for place in (".", "fused", "fused/grey")]
        for path in others:
            shutil.copy(path.with_name(f"{validated_case}.nii.gz"), path)
        (folder / "summary.json").unlink()
        checkpoint = (own_results / MODEL / "fold_0" / "checkpoint_final.pth").read_bytes()

        assert train.main(["990", "2d", "0", "-device", "cpu", "--val"]) == 0
        assert json.loads((folder / "summary.json").read_text())["foreground_mean"] == scores
        assert (folder / f"{validated_case}.nii.gz").read_bytes() == before
        assert not any(path.exists() for path in others)
        assert (own_results / MODEL / "fold_0" / "checkpoint_final.pth").read_bytes() == checkpoint

    def test_leaves_the_trained_model_as_it_was(self, trained_model: Path) -> None:
        final = torch.load(trained_model / "fold_0" / "checkpoint_final.pth", weights_only=True)
        assert final["inference_allowed_mirroring_axes"] == (0, 1)


class Dataset:
    """Two cases of noise, on one grid before and after preprocessing, with a cascade's previous labels if asked for."""

    SHAPE = (4, 20, 18)
    identifiers = ("a", "b")
    properties: dict[str, Any] = {
        "spacing": [1.0, 1.0, 1.0], "shape_before_cropping": SHAPE, "shape_after_cropping_and_before_resampling": SHAPE,
        "bbox_used_for_cropping": [[0, size] for size in SHAPE],
        "sitk_stuff": {"spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": tuple(np.eye(3).ravel())}}

    def __init__(self, *, cascaded: bool = False) -> None:
        random = np.random.default_rng(0)
        self.channels = {case: random.standard_normal((3, *self.SHAPE), dtype=np.float32) for case in self.identifiers}
        self.previous = {case: random.integers(0, 4, self.SHAPE, dtype=np.int8) if cascaded else None
                         for case in self.identifiers}

    def load_case(self, case: str) -> tuple[np.ndarray, None, np.ndarray | None, dict[str, Any]]:
        return self.channels[case], None, self.previous[case], self.properties


@pytest.fixture
def preprocessed(tmp_path: Path) -> Path:
    """References of both cases, and their channels on the grid of a next stage."""
    folder, random = tmp_path / "preprocessed", np.random.default_rng(1)
    (folder / "gt_segmentations").mkdir(parents=True)
    (folder / "finer").mkdir()
    for case in Dataset.identifiers:
        labels = sitk.GetImageFromArray(random.integers(0, 4, Dataset.SHAPE, dtype=np.uint8))
        sitk.WriteImage(labels, str(folder / "gt_segmentations" / f"{case}.nii.gz"))
        finer = random.standard_normal((3, 4, 30, 27), dtype=np.float32)
        nnUNetDatasetBlosc2.save_case(finer, np.zeros((1, 4, 30, 27), np.int8), {}, str(folder / "finer" / case))
    return folder


class TestCalibration:
    def test_is_of_all_folds_that_were_validated(self, make_network: MakeNetwork, make_loaded: MakeLoaded, preprocessed: Path,
                                                 tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "fold_1" / "validation").mkdir(parents=True)
        write_doubts([{"dice": number / 10, "doubt": 1 - number / 10, "volume": 1.0} for number in range(6)], tmp_path / "fold_1")
        (preprocessed / "dataset_fingerprint.json").write_text(json.dumps({"label_volumes": {"a": [0.1, 0.2, 0.3, 0.4, 0.5]}}))
        with caplog.at_level("INFO"):
            validate_segmentations(make_loaded(make_network(), mirror=True), Dataset(), tmp_path / "fold_0",
                                   preprocessed=preprocessed)
        record = json.loads((tmp_path / "fold_0" / "validation" / "run.json").read_text())
        assert record["made_by"]["calibration"] == model_calibration(tmp_path)
        assert record["made_by"]["calibration"]["cases"] == 8
        assert "doubt, over 8 validated cases: rank correlation with Dice -" in caplog.text
        for case in record["cases"].values():
            assert case["doubt"]["disagreement"] > 0
            assert case["doubt"]["size"]["a"] == pytest.approx(
                (np.log(case["volumes"]["a"]) - np.log(0.3)) / (1.4826 * np.log(1.5)), rel=1e-3)
            assert case["doubt"]["size"]["b"] is None

    def test_of_a_few_cases_is_none(self, make_network: MakeNetwork, make_loaded: MakeLoaded, preprocessed: Path,
                                    tmp_path: Path) -> None:
        validate_segmentations(make_loaded(make_network()), Dataset(), tmp_path / "fold_0", preprocessed=preprocessed)
        record = json.loads((tmp_path / "fold_0" / "validation" / "run.json").read_text())
        assert "calibration" not in record["made_by"]
        assert len(json.loads((tmp_path / "fold_0" / "validation" / "doubt.json").read_text())) == 2


class TestCascade:
    def test_the_second_stage_sees_what_the_first_segmented(self, make_network: MakeNetwork, make_loaded: MakeLoaded,
                                                            preprocessed: Path, tmp_path: Path) -> None:
        model, dataset = make_loaded(make_network(extra=3)), Dataset(cascaded=True)
        summary = validate_segmentations(model, dataset, tmp_path / "fold_0", preprocessed=preprocessed)
        assert [Path(case["prediction_file"]).name for case in summary["metric_per_case"]] == ["a.nii.gz", "b.nii.gz"]
        for case in dataset.identifiers:
            one_hot = np.stack([dataset.previous[case] == label for label in (1, 2, 3)]).astype(np.float32)
            made = predict_case(model, torch.from_numpy(np.concatenate([dataset.channels[case], one_hot])), dataset.properties)
            written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "fold_0" / "validation" / f"{case}.nii.gz")))
            np.testing.assert_array_equal(written, made.logits.argmax(axis=0))
            fused, _ = read_fused(tmp_path / "fold_0" / "validation" / "fused" / f"{case}.nii.gz", SimpleITKIO)
            np.testing.assert_array_equal(fused, made.fused[0])

    def test_probabilities_are_written_if_asked_for_and_go_with_the_next_validation(
            self, make_network: MakeNetwork, make_loaded: MakeLoaded, preprocessed: Path, tmp_path: Path) -> None:
        model, dataset, folder = make_loaded(make_network(extra=3)), Dataset(cascaded=True), tmp_path / "fold_0" / "validation"
        validate_segmentations(model, dataset, tmp_path / "fold_0", preprocessed=preprocessed, save_probabilities=True)
        for case in dataset.identifiers:
            one_hot = np.stack([dataset.previous[case] == label for label in (1, 2, 3)]).astype(np.float32)
            made = predict_case(model, torch.from_numpy(np.concatenate([dataset.channels[case], one_hot])), dataset.properties)
            expected = torch.from_numpy(made.logits).float().softmax(dim=0).numpy()
            np.testing.assert_allclose(np.load(folder / f"{case}.npz")["probabilities"], expected, atol=1e-6)
        validate_segmentations(model, dataset, tmp_path / "fold_0", preprocessed=preprocessed)
        assert [*folder.glob("*.npz"), *folder.glob("*.pkl")] == []

    def test_the_first_stage_leaves_its_labels_on_the_grid_of_the_next(self, make_network: MakeNetwork, make_loaded: MakeLoaded,
                                                                       preprocessed: Path, tmp_path: Path) -> None:
        model, dataset = make_loaded(make_network()), Dataset()
        self.add_stage(model)
        validate_segmentations(model, dataset, tmp_path / "fold_0", preprocessed=preprocessed)
        for case in dataset.identifiers:
            made = predict_case(model, torch.from_numpy(dataset.channels[case]), dataset.properties)
            finer = torch.nn.functional.interpolate(torch.from_numpy(made.logits).float(), (30, 27), mode="bilinear")
            segmented = nnUNetDatasetBlosc2(str(preprocessed / "finer"), [case], str(tmp_path / "predicted_next_stage" / "next"))
            found = segmented.load_case(case)[2][:]
            assert (found == finer.argmax(dim=0).numpy()).mean() > 0.999
            assert len(np.unique(found)) > 1

    def test_the_first_stage_says_what_it_cannot_leave(self, make_network: MakeNetwork, make_loaded: MakeLoaded,
                                                       preprocessed: Path, tmp_path: Path,
                                                       caplog: pytest.LogCaptureFixture) -> None:
        model = make_loaded(make_network())
        self.add_stage(model)
        (preprocessed / "finer" / "b.pkl").unlink()
        validate_segmentations(model, Dataset(), tmp_path / "fold_0", preprocessed=preprocessed)
        assert "b is not left for next, of which it is not preprocessed" in caplog.text
        assert [path.stem for path in (tmp_path / "predicted_next_stage" / "next").iterdir()] == ["a"]
        assert (tmp_path / "fold_0" / "validation" / "b.nii.gz").is_file()

    @staticmethod
    def add_stage(model: Model) -> None:
        configurations = model.description.plans.plans["configurations"]
        configurations["next"] = {**configurations["here"], "data_identifier": "finer"}
        model.description.configuration.configuration["next_stage"] = "next"


class TestValidateFusion:
    def test_is_the_mean_over_the_exported_images(self, make_network: MakeNetwork, make_loaded: MakeLoaded,
                                                  tmp_path: Path) -> None:
        model, dataset, intensities = make_loaded(make_network(), labels=False), Dataset(), []
        losses = validate_fusion(model, dataset, tmp_path)
        for case, channels in dataset.channels.items():
            fused, _ = read_fused(tmp_path / "validation" / "fused" / f"{case}.nii.gz", SimpleITKIO)
            brightest = np.clip((channels + 2) / 4, 0, 1).max(axis=0)
            seen_as_grey = (0.299 * fused[0] + 0.587 * fused[1] + 0.114 * fused[2]) / 255
            intensities.append(np.abs(seen_as_grey - brightest).mean())
        assert losses["intensity"] == pytest.approx(np.mean(intensities), rel=1e-4)
        assert 0 < losses["texture"] < 1
        assert losses.keys() == {"intensity", "texture", "edges", "ssim", "balance", "vif", "scd"}
        assert not list((tmp_path / "validation").glob("*.nii.gz"))

    def test_passes_over_what_cases_lack_and_says_so(self, make_network: MakeNetwork, make_loaded: MakeLoaded,
                                                     tmp_path: Path) -> None:
        losses = []
        for value in (0.0, 50.0):
            dataset = Dataset()
            dataset.properties = {**dataset.properties, "present": [True, False, True]}
            for channels in dataset.channels.values():
                channels[1] = value
            model = make_loaded(make_network(), labels=False)
            losses.append(validate_fusion(model, dataset, tmp_path / f"{value:g}"))
            told = json.loads((tmp_path / f"{value:g}" / "validation" / "run.json").read_text())["cases"]
            absent = list(model.description.dataset_json["channel_names"].values())[1]
            assert [case["absent"] for case in told.values()] == [[absent], [absent]]
        assert losses[0] == losses[1]
        whole = validate_fusion(make_loaded(make_network(), labels=False), Dataset(), tmp_path / "whole")
        assert whole["ssim"] != losses[0]["ssim"]
