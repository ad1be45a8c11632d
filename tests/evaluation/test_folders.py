"""Folders of segmentations: agreement with nnU-Net, rules for what is empty, and refusal of what does not match."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from fuse4seg.errors import (
    EmptyFolderError,
    FaultyImageError,
    FolderNotFoundError,
    UnpairedCasesError,
    UnreadableImageError,
)
from fuse4seg.evaluation.folders import Evaluation, evaluate_folders

LABELS = {"labels": {"background": 0, "core": 1, "oedema": 2}, "file_ending": ".nii.gz"}
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 1, "ignore": 3}, "regions_class_order": [2, 1],
           "file_ending": ".nii.gz"}
SHAPE = (4, 5, 6)


def write(path: Path, labels: np.ndarray, *, origin: tuple[float, ...] = (0, 0, 0)) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    image = SimpleITK.GetImageFromArray(labels.astype(np.uint8))
    image.SetOrigin(origin)
    SimpleITK.WriteImage(image, str(path))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and references of cases a, b, c with random labels 0 to 3."""
    rng = np.random.default_rng(0)
    for case in "abc":
        for kind in ("predictions", "references"):
            write(tmp_path / kind / f"{case}.nii.gz", rng.integers(0, 4, SHAPE))
    return tmp_path / "predictions", tmp_path / "references"


def stock_summary(predictions: Path, references: Path, dataset_json: dict[str, Any]) -> dict[str, Any]:
    manager = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    classes = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    return compute_metrics_on_folder(str(references), str(predictions), None, SimpleITKIO(), ".nii.gz", classes,
                                     manager.ignore_label, num_processes=1)


class TestEvaluateFolders:
    @pytest.mark.parametrize("dataset_json", [LABELS, REGIONS], ids=["labels", "regions and ignore label"])
    def test_agrees_with_nnunet(self, folders: tuple[Path, Path], dataset_json: dict[str, Any]) -> None:
        write(folders[0] / "c.nii.gz", np.zeros(SHAPE))
        write(folders[1] / "c.nii.gz", np.full(SHAPE, 2) * (np.arange(6) > 3))
        ours, stock = evaluate_folders(*folders, dataset_json=dataset_json), stock_summary(*folders, dataset_json)
        assert ours.foreground_mean() == pytest.approx(stock["foreground_mean"]["Dice"])
        stock_means = [entry["Dice"] for entry in stock["mean"].values()]
        np.testing.assert_allclose(list(ours.class_means().values()), stock_means)
        for values, case in zip(ours.cases.values(), stock["metric_per_case"], strict=True):
            np.testing.assert_allclose(values, [entry["Dice"] for entry in case["metrics"].values()])

    def test_names_cases_and_classes(self, folders: tuple[Path, Path]) -> None:
        evaluation = evaluate_folders(*folders, dataset_json=LABELS)
        assert list(evaluation.cases) == ["a", "b", "c"]
        assert evaluation.classes == ("core", "oedema")

    def test_passes_over_sub_folders_and_other_files(self, folders: tuple[Path, Path]) -> None:
        expected = evaluate_folders(*folders, dataset_json=LABELS)
        write(folders[0] / "fused" / "a.nii.gz", np.zeros(SHAPE))
        (folders[0] / "folder.nii.gz").mkdir()
        (folders[0] / "dataset.json").write_text("{}")
        (folders[0] / "._a.nii.gz").touch()
        assert evaluate_folders(*folders, dataset_json=LABELS) == expected

    @pytest.mark.parametrize("lacking", [0, 1])
    def test_refuses_an_image_in_one_folder_only(self, folders: tuple[Path, Path], lacking: int) -> None:
        (folders[lacking] / "b.nii.gz").unlink()
        with pytest.raises(UnpairedCasesError, match=rf"{folders[lacking].name} lacks 1 file.*: b\.nii\.gz"):
            evaluate_folders(*folders, dataset_json=LABELS)

    def test_refuses_a_missing_and_an_empty_folder(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        with pytest.raises(FolderNotFoundError, match="nowhere"):
            evaluate_folders(tmp_path / "nowhere", folders[1], dataset_json=LABELS)
        (tmp_path / "empty").mkdir()
        with pytest.raises(EmptyFolderError, match="empty"):
            evaluate_folders(tmp_path / "empty", folders[1], dataset_json=LABELS)

    def test_refuses_another_shape_and_another_place(self, folders: tuple[Path, Path]) -> None:
        write(folders[0] / "b.nii.gz", np.zeros((4, 5, 7)))
        with pytest.raises(FaultyImageError, match=r"case b: .*shape \(4, 5, 7\) instead of \(4, 5, 6\)"):
            evaluate_folders(*folders, dataset_json=LABELS)
        write(folders[0] / "b.nii.gz", np.zeros(SHAPE), origin=(0, 0, 3))
        with pytest.raises(FaultyImageError, match="origin"):
            evaluate_folders(*folders, dataset_json=LABELS)

    def test_refuses_an_unreadable_file(self, folders: tuple[Path, Path]) -> None:
        (folders[0] / "b.nii.gz").write_text("no image")
        with pytest.raises(UnreadableImageError, match=r"b\.nii\.gz"):
            evaluate_folders(*folders, dataset_json=LABELS)


class TestEvaluation:
    evaluation = Evaluation(("core", "oedema"), {"a": (0.5, math.nan), "b": (1.0, 0.25)})

    def test_leaves_nan_out_of_the_means_and_counts_it(self) -> None:
        assert self.evaluation.class_means() == {"core": 0.75, "oedema": 0.25}
        assert self.evaluation.left_out() == {"core": 0, "oedema": 1}
        assert self.evaluation.foreground_mean() == 0.5

    def test_has_no_foreground_mean_if_a_class_is_nowhere(self) -> None:
        nowhere = Evaluation(("core", "oedema"), {"a": (0.5, math.nan)})
        assert math.isnan(nowhere.class_means()["oedema"])
        assert math.isnan(nowhere.foreground_mean())

    def test_formats_a_row_per_case_then_mean_and_what_was_left_out(self) -> None:
        assert self.evaluation.format().splitlines()[2:] == [
            "a              0.5000     nan",
            "b              1.0000  0.2500",
            "mean           0.7500  0.2500",
            "nan, left out       0       1",
        ]

    def test_writes_json_without_nan(self, tmp_path: Path) -> None:
        self.evaluation.write_json(tmp_path / "dice.json")
        written = json.loads((tmp_path / "dice.json").read_text(), parse_constant=pytest.fail)
        assert written == {"metric": "Dice", "foreground_mean": 0.5, "mean": {"core": 0.75, "oedema": 0.25},
                           "left_out": {"core": 0, "oedema": 1},
                           "cases": {"a": {"core": 0.5, "oedema": None}, "b": {"core": 1.0, "oedema": 0.25}}}
