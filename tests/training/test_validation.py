"""Validation of a fold: its cases and no other, predicted as f4s_predict predicts, scored as f4s_evaluate scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from fuse4seg.cli import predict, train
from fuse4seg.evaluation.folders import evaluate_folders

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
        assert names == {f"{validated_case}.nii.gz", f"fused/{validated_case}.nii.gz", f"fused/grey/{validated_case}.nii.gz",
                         "summary.json"}

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
