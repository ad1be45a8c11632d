"""The evidence of the results page: what is missing is trained, whole rows first, and the page holds what was measured."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from fuse4seg.comparison.rows import choose_rows
from fuse4seg.datasets.splits import read_splits
from fuse4seg.recipes.reading import changed, read_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def evidence(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    return load_benchmark("evidence")


def test_the_steps_are_comparisons_that_can_be_made(evidence: ModuleType) -> None:
    steps = evidence.read_steps()
    assert len({step.figures for step in steps}) == len({(step.dataset, step.configuration, step.plans) for step in steps})
    for step in steps:
        assert changed(read_recipe("fuse4seg"), step.changes).segments
        assert step.rows[0] == "stacked"
        rows = choose_rows(step.rows, modalities=["T1", "T1ce", "T2", "FLAIR"], variants=step.variants)
        assert [row.name for row in rows] == [*step.rows, *step.variants]
        for row in rows:
            if row.name in step.variants:
                assert changed(read_recipe("grey"), row.changes) != read_recipe("grey")


class TestMissing:
    STEP = {"figures": "f", "dataset": 1, "configuration": "2d", "plans": "P", "changes": (), "rows": ("stacked", "max"),
            "folds": (0, 1, 2)}

    def test_is_all_at_first_and_what_the_figures_lack_later(self, evidence: ModuleType) -> None:
        step = evidence.Step(**self.STEP)
        assert evidence.missing(step, None) == [(fold, 0, row) for row in ("stacked", "max") for fold in (0, 1, 2)]
        known = [{"fold": fold, "seed": seed, "name": row} for fold, seed, row in (
            (0, 0, "stacked"), (2, 0, "stacked"), (0, 1, "max"), (1, 0, "max"), (0, 0, "mean"))]
        assert evidence.missing(step, {"results": known}) == [(1, 0, "stacked"), (0, 0, "max"), (2, 0, "max")]

    def test_is_called_for_a_row_and_seed_at_a_time_as_many_folds_as_there_are_devices(self, evidence: ModuleType) -> None:
        step = evidence.Step(**{**self.STEP, "seeds": (0, 1)})
        found = list(evidence.calls(evidence.missing(step, None), at_once=2))
        assert found[:2] == [[(0, 0, "stacked"), (1, 0, "stacked")], [(2, 0, "stacked")]]
        assert len(found) == 8
        assert sum(map(len, found)) == 12


def test_variants_and_a_fold_for_each_case_reach_the_commands(evidence: ModuleType, planned_phantom: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessed = tmp_path / "nnUNet_preprocessed"
    shutil.copytree(planned_phantom / "nnUNet_preprocessed", preprocessed)
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(evidence, "_call", lambda *words: called.append(words))
    monkeypatch.setattr(evidence, "found_in", lambda place: {"results": []})
    monkeypatch.setattr(evidence, "save_figures", lambda figures, path: None)
    monkeypatch.setattr(evidence, "read_figures", lambda name: None)
    step = evidence.Step("f", 990, "2d", "Fuse4SegPlans", (), ("stacked",), (0,), variants={"lambda3": "bilevel.fusion_weight=3"},
                         leave_one_out=True)
    evidence._measure(step, tmp_path / "work", devices=["cpu"], until=math.inf)
    assert [words[words.index("--rows"):words.index("-f")] for words in called] == [
        ("--rows", "stacked"), ("--rows", "--variant", "lambda3=bilevel.fusion_weight=3")]
    folder = preprocessed / "Dataset990_Phantom"
    cases = {path.name.removesuffix(".nii.gz") for path in (folder / "gt_segmentations").glob("*.nii.gz")}
    splits = read_splits(folder)
    assert {case for split in splits for case in split["val"]} == cases
    assert all(len(split["val"]) == 1 and {*split["train"], *split["val"]} == cases for split in splits)


def test_figures_name_no_folder_of_this_machine(evidence: ModuleType, tmp_path: Path) -> None:
    place = tmp_path / "work" / "compare_505"
    place.mkdir(parents=True)
    command = f"f4s_compare 505 2d -o {place} --rows max"
    (place / "comparison.json").write_text(json.dumps({"calls": [{"command": command, "machine": "x"}], "results": []}))
    assert evidence.found_in(place) == {"calls": [{"command": "f4s_compare 505 2d -o compare_505 --rows max", "machine": "x"}],
                                        "results": []}


def test_post_processing_is_learnt_over_the_folds(evidence: ModuleType, planned_phantom: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """The true labels of the phantom and a false island in each: the largest component alone is left, so that all is right."""
    monkeypatch.setenv("nnUNet_preprocessed", str(planned_phantom / "nnUNet_preprocessed"))
    step = evidence.Step("f", 990, "2d", "Fuse4SegPlans", (), ("max",), (0, 1))
    truths = sorted((planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom" / "gt_segmentations").glob("*.nii.gz"))[:4]
    for number, path in enumerate(truths):
        image = sitk.ReadImage(str(path))
        labels = sitk.GetArrayFromImage(image)
        labels[:2, :2, :2] = 1
        predicted = sitk.GetImageFromArray(labels)
        predicted.CopyInformation(image)
        folder = tmp_path / "trainings" / "max" / f"fold{number % 2}_seed0" / "D" / "M" / f"fold_{number % 2}" / "validation"
        folder.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(predicted, str(folder / path.name))
    found = evidence.post_processed(step, tmp_path, "max", 0)
    assert (found["name"], found["seed"]) == ("max", 0)
    assert found["rules"]
    assert found["cases"] == {path.name.removesuffix(".nii.gz"): [1.0, 0.0] for path in truths}


def test_the_page_and_its_pictures_are_those_of_the_figures(evidence: ModuleType, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte; of the bitmaps, which other builds compress otherwise, pixel by pixel."""
    page = tmp_path / "results.md"
    page.write_text(evidence.PAGE.read_text())
    monkeypatch.setattr(evidence, "PICTURES", tmp_path)
    evidence.write_page(page)
    assert page.read_text() == evidence.PAGE.read_text()
    drawn = sorted(tmp_path.glob("*.svg"))
    assert drawn
    for path in drawn:
        committed = ROOT / "documentation" / "images" / path.name
        assert path.read_bytes() == committed.read_bytes()
        ours, theirs = (np.asarray(Image.open(one.with_suffix(".png"))) for one in (path, committed))
        np.testing.assert_array_equal(ours, theirs)
