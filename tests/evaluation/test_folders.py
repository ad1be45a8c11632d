"""Folders of segmentations: agreement with nnU-Net, rules for what is empty, and refusal of what does not match."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy import ndimage

from fuse4seg.errors import EmptyFolderError, FolderNotFoundError, UnpairedCasesError
from fuse4seg.evaluation import folders as module
from fuse4seg.evaluation.folders import METRICS, Evaluation, Scores, evaluate_folders, keep_largest_component
from fuse4seg.evaluation.overlap import Confusion

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
    """Predictions and references of cases a, b, c with random labels 0 to 2."""
    rng = np.random.default_rng(0)
    for case in "abc":
        for kind in ("predictions", "references"):
            write(tmp_path / kind / f"{case}.nii.gz", rng.integers(0, 3, SHAPE))
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
        for metric in ("Dice", "IoU"):
            assert ours.foreground_mean(metric) == pytest.approx(stock["foreground_mean"][metric])
            stock_means = [entry[metric] for entry in stock["mean"].values()]
            np.testing.assert_allclose(list(ours.class_means(metric).values()), stock_means)
            for scores, case in zip(ours.cases.values(), stock["metric_per_case"], strict=True):
                expected = [entry[metric] for entry in case["metrics"].values()]
                np.testing.assert_allclose([score.values[metric] for score in scores.values()], expected)

    def test_measures_surfaces_in_the_millimetres_of_the_reference(self, tmp_path: Path) -> None:
        for kind, start in (("predictions", 2), ("references", 4)):
            labels = np.zeros((6, 12, 12))
            labels[1:5, 3:9, start:start + 5] = 1
            write(tmp_path / kind / "a.nii.gz", labels)
            stored = SimpleITK.ReadImage(str(tmp_path / kind / "a.nii.gz"))
            stored.SetSpacing((3, 1, 1))
            SimpleITK.WriteImage(stored, str(tmp_path / kind / "a.nii.gz"))
        evaluation = evaluate_folders(tmp_path / "predictions", tmp_path / "references", dataset_json=LABELS)
        assert evaluation.class_means("HD95")["core"] == pytest.approx(6)
        assert evaluation.left_out("HD95") == {"core": 0, "oedema": 1}

    def test_measures_surfaces_of_tiff_in_the_millimetres_beside_it(self, tmp_path: Path) -> None:
        labels = np.zeros((2, 6, 8, 8), np.uint8)
        labels[0, 1:4, 2:6, 2:6] = labels[1, 2:5, 2:6, 2:6] = 1
        for kind, of_kind in zip(("predictions", "references"), labels, strict=True):
            write(tmp_path / kind / "a.tif", of_kind)
            (tmp_path / kind / "a.json").write_text('{"spacing": [3, 1, 1]}')
        evaluation = evaluate_folders(tmp_path / "predictions", tmp_path / "references",
                                      dataset_json=LABELS | {"file_ending": ".tif"})
        assert evaluation.faults == ()
        assert evaluation.class_means("HD95")["core"] == 3

    def test_scores_further_regions_outside_the_foreground_mean(self, folders: tuple[Path, Path]) -> None:
        plain = evaluate_folders(*folders, dataset_json=LABELS)
        evaluation = evaluate_folders(*folders, dataset_json=LABELS, regions={"whole": (1, 2)})
        assert evaluation.names == ("core", "oedema", "whole")
        assert evaluation.foreground_mean() == plain.foreground_mean()
        predicted, wanted = (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "b.nii.gz"))) > 0 for folder in folders)
        expected = 2 * (predicted & wanted).sum() / (predicted.sum() + wanted.sum())
        assert evaluation.cases["b"]["whole"].values["Dice"] == pytest.approx(expected)

    def test_scores_the_largest_component_alone_where_asked(self, tmp_path: Path) -> None:
        """An island of one voxel, 7 mm away, which nnU-Net's post-processing takes away."""
        labels = np.zeros((1, 4, 12))
        labels[0, :2, :3] = 1
        write(tmp_path / "references" / "a.nii.gz", labels)
        labels[0, 0, 9] = 2
        write(tmp_path / "predictions" / "a.nii.gz", labels)
        plain, alone = (evaluate_folders(tmp_path / "predictions", tmp_path / "references", dataset_json=LABELS,
                                         regions={"all": (1, 2)}, largest_component=asked) for asked in (False, True))
        assert plain.cases["a"]["all"].values["Dice"] == pytest.approx(12 / 13)
        assert plain.cases["a"]["oedema"].values["Dice"] == 0
        assert alone.cases["a"]["all"].values["Dice"] == 1
        assert math.isnan(alone.cases["a"]["oedema"].values["Dice"])

    def test_names_cases_and_classes(self, folders: tuple[Path, Path]) -> None:
        evaluation = evaluate_folders(*folders, dataset_json=LABELS)
        assert list(evaluation.cases) == ["a", "b", "c"]
        assert evaluation.names == ("core", "oedema")

    def test_passes_over_sub_folders_and_other_files(self, folders: tuple[Path, Path]) -> None:
        expected = evaluate_folders(*folders, dataset_json=LABELS)
        write(folders[0] / "fused" / "a.nii.gz", np.zeros(SHAPE))
        (folders[0] / "folder.nii.gz").mkdir()
        (folders[0] / "dataset.json").write_text("{}")
        (folders[0] / "._a.nii.gz").touch()
        assert evaluate_folders(*folders, dataset_json=LABELS) == expected

    def test_names_links_that_lead_nowhere(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        for folder in folders:
            (folder / "d.nii.gz").symlink_to(tmp_path / "moved" / "d.nii.gz")
        evaluation = evaluate_folders(*folders, dataset_json=LABELS)
        assert list(evaluation.cases) == ["a", "b", "c"]
        assert len(evaluation.faults) == 1
        assert "d.nii.gz cannot be read" in evaluation.faults[0]

    def test_says_which_images_of_another_format_are_left_out(self, folders: tuple[Path, Path],
                                                              caplog: pytest.LogCaptureFixture) -> None:
        (folders[1] / "d.nii").touch()
        evaluate_folders(*folders, dataset_json=LABELS)
        assert [record.getMessage().split(". ")[0] for record in caplog.records] == [
            f"{folders[1]}: left out d.nii: only files *.nii.gz are read"]

    @pytest.mark.parametrize("lacking", [0, 1])
    def test_refuses_an_image_in_one_folder_only(self, folders: tuple[Path, Path], lacking: int) -> None:
        (folders[lacking] / "b.nii.gz").unlink()
        with pytest.raises(UnpairedCasesError, match=rf"{folders[lacking].name} lacks 1 image.*: b\.nii\.gz"):
            evaluate_folders(*folders, dataset_json=LABELS)

    def test_refuses_a_missing_and_an_empty_folder(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        with pytest.raises(FolderNotFoundError, match="nowhere"):
            evaluate_folders(tmp_path / "nowhere", folders[1], dataset_json=LABELS)
        (tmp_path / "empty").mkdir()
        with pytest.raises(EmptyFolderError, match="empty"):
            evaluate_folders(tmp_path / "empty", folders[1], dataset_json=LABELS)

    def test_scores_rounded_and_tilted_series_whatever_the_first_is(self, folders: tuple[Path, Path]) -> None:
        """Which ITK refuses, where the sform alone says it."""
        expected = evaluate_folders(*folders, dataset_json=LABELS)
        for case, shear in (("b", 1e-3), ("c", math.tan(math.radians(15)))):
            affine = np.eye(4)
            affine[1, 2] = shear
            for folder in folders:
                image = nibabel.Nifti1Image(np.asanyarray(nibabel.load(folder / f"{case}.nii.gz").dataobj), affine)
                image.set_qform(None, 0)
                nibabel.save(image, folder / f"{case}.nii.gz")
        evaluation = evaluate_folders(*folders, dataset_json=LABELS)
        assert evaluation.faults == ()
        for metric in ("Dice", "IoU"):
            assert evaluation.class_means(metric) == expected.class_means(metric)
        write(folders[0] / "c.nii.gz", np.zeros(SHAPE))
        (fault,) = evaluate_folders(*folders, dataset_json=LABELS).faults
        assert "case c: " in fault

    @pytest.mark.parametrize("ending", [".nrrd", ".mha"])
    def test_scores_tilted_series_of_other_formats(self, folders: tuple[Path, Path], ending: str) -> None:
        expected = evaluate_folders(*folders, dataset_json=LABELS)
        for path in [path for folder in folders for path in folder.iterdir()]:
            image = SimpleITK.ReadImage(str(path))
            image.SetDirection((1, 0, 0, 0, 1, math.sin(math.radians(15)), 0, 0, math.cos(math.radians(15))))
            SimpleITK.WriteImage(image, str(path.with_name(f"{path.name[0]}{ending}")))
            path.unlink()
        assert evaluate_folders(*folders, dataset_json={**LABELS, "file_ending": ending}) == expected

    def test_any_error_of_a_case_is_its_fault(self, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        def fail_on_b(case: str, *given: Any, **named: Any) -> Any:
            if case == "b":
                raise IndexError("list index out of range")
            return read_pair(case, *given, **named)

        read_pair = module.read_pair
        monkeypatch.setattr(module, "read_pair", fail_on_b)
        evaluation = evaluate_folders(*folders, dataset_json=LABELS)
        assert list(evaluation.cases) == ["a", "c"]
        assert evaluation.faults[0].startswith("case b: it cannot be used (IndexError: list index out of range)")

    def test_leaves_out_and_names_what_cannot_be_scored(self, folders: tuple[Path, Path]) -> None:
        def faults() -> tuple[str, ...]:
            evaluation = evaluate_folders(*folders, dataset_json=LABELS)
            assert list(evaluation.cases) == ["a", "c"]
            return evaluation.faults

        write(folders[0] / "b.nii.gz", np.zeros((4, 5, 7)))
        (fault,) = faults()
        assert "case b: " in fault
        assert "shape (4, 5, 7) instead of (4, 5, 6)" in fault
        write(folders[0] / "b.nii.gz", np.zeros(SHAPE), origin=(0, 0, 3))
        assert "origin" in faults()[0]
        write(folders[0] / "b.nii.gz", np.full(SHAPE, 3))
        assert f"{folders[0] / 'b.nii.gz'} holds the value 3" in faults()[0]
        holed = SimpleITK.GetImageFromArray(np.where(np.arange(120).reshape(SHAPE) == 7, np.nan, 0).astype(np.float32))
        SimpleITK.WriteImage(holed, str(folders[0] / "b.nii.gz"))
        assert "b.nii.gz holds NaN" in faults()[0]
        (folders[0] / "b.nii.gz").write_text("no image")
        assert "b.nii.gz cannot be read" in faults()[0]


def scores(tp: int, fp: int, fn: int, hd95: float = math.nan) -> Scores:
    return Scores(Confusion(tp, fp, fn, 10), hd95)


class TestEvaluation:
    evaluation = Evaluation({"core": 1, "oedema": 2}, {"a": {"core": scores(1, 1, 1, 3.0), "oedema": scores(0, 0, 0)},
                                                       "b": {"core": scores(4, 0, 0, 1.0), "oedema": scores(1, 6, 0, 2.0)}}, {})

    def test_leaves_nan_out_of_the_means_and_counts_it(self) -> None:
        assert self.evaluation.class_means() == {"core": 0.75, "oedema": 0.25}
        assert self.evaluation.left_out() == {"core": 0, "oedema": 1}
        assert self.evaluation.foreground_mean() == 0.5
        assert self.evaluation.class_means("HD95") == {"core": 2.0, "oedema": 2.0}

    def test_has_no_foreground_mean_if_a_class_is_nowhere(self) -> None:
        nowhere = Evaluation(self.evaluation.classes, {"a": self.evaluation.cases["a"]}, {})
        assert math.isnan(nowhere.class_means()["oedema"])
        assert math.isnan(nowhere.foreground_mean())

    def test_formats_a_row_per_case_then_mean_and_what_was_left_out(self) -> None:
        assert self.evaluation.format().splitlines()[2:] == [
            "a              0.5000     nan",
            "b              1.0000  0.2500",
            "mean           0.7500  0.2500",
            "nan, left out       0       1",
        ]

    def test_formats_a_row_per_class_with_its_interval(self) -> None:
        lines = self.evaluation.format_classes().splitlines()
        assert lines[2].split() == ["core", "0.7500", "0.5000", "to", "1.0000", "0.6667", "2.0000", "0.7500", "0.7500", "0"]
        assert lines[-1].startswith("foreground mean  0.5000")

    def test_writes_json_without_nan_and_a_csv(self, tmp_path: Path) -> None:
        self.evaluation.write(tmp_path / "result.json")
        written = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
        assert written["foreground_mean"]["Dice"] == 0.5
        assert written["mean"]["oedema"]["IoU"] == pytest.approx(1 / 7)
        assert written["left_out"]["oedema"] == dict.fromkeys(METRICS, 1)
        assert written["interval"]["core"]["Dice"] == [0.5, 1.0]
        assert written["interval"]["oedema"]["Dice"] == [None, None]
        assert written["cases"]["a"]["oedema"] == dict.fromkeys(METRICS)
        rows = list(csv.DictReader((tmp_path / "result.csv").open()))
        assert [(row["case"], row["class"]) for row in rows] == [("a", "core"), ("a", "oedema"), ("b", "core"), ("b", "oedema")]
        assert float(rows[2]["precision"]) == 1


THREE = {"labels": {"background": 0, "core": 1, "oedema": 2, "rim": 3}, "file_ending": ".nii.gz"}


class TestKeepLargestComponent:
    @settings(deadline=None)
    @given(arrays(np.float32, (1, 4, 5, 6), elements=st.sampled_from([0, 0, 0, 0, 1, 2])))
    def test_is_that_of_scipy(self, labels: np.ndarray) -> None:
        found, components = ndimage.label(labels[0] > 0, np.ones((3, 3, 3)))
        sizes = np.bincount(found.ravel(), minlength=components + 1)[1:]
        largest = 1 + np.flatnonzero(sizes == sizes.max(initial=0))
        assert np.array_equal(keep_largest_component(labels, (1, 2))[0], np.where(np.isin(found, largest), labels[0], 0))

    def test_takes_all_classes_as_one_region_and_leaves_other_labels(self) -> None:
        labels = np.array([[[[1, 2, 2, 0, 1, 1, 0, 3]]]], np.float32)
        assert keep_largest_component(labels, (1, 2)).tolist() == [[[[1, 2, 2, 0, 0, 0, 0, 3]]]]
