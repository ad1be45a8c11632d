"""A comparison where nothing is labelled, by its command: a leader, a rule and images, scored by the fusion metrics alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from fuse4seg.cli import compare, extract_fingerprint, plan_experiment, preprocess
from fuse4seg.comparison.prepared_data import as_grey, windows_of
from fuse4seg.comparison.scores import with_margin
from fuse4seg.evaluation.fusion_metrics import METRICS, fusion_metrics
from fuse4seg.planning import fingerprint
from fuse4seg.planning.foreground import draw_foreground

DATASET = "Dataset990_Phantom"
SMALL = ["-gpu_memory_target", "0.1", "-overwrite_plans_name", "Fuse4SegPlans", "--set", "follower.features=8",
         "patches.largest_batch=4", "pretraining.epochs=0", "training.epochs=1", "training.iterations=2"]


@pytest.fixture(scope="module")
def planned(phantom_roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Roots of the phantom dataset without its labels, preprocessed for 2d."""
    root = tmp_path_factory.mktemp("unlabelled_comparison") / "roots"
    shutil.copytree(phantom_roots / "nnUNet_raw", root / "nnUNet_raw")
    shutil.rmtree(root / "nnUNet_raw" / DATASET / "labelsTr")
    at = ["--root", str(root)]
    with pytest.MonkeyPatch.context() as patch:
        # nnU-Net's 10^8 draws take seconds, however small the dataset.
        patch.setattr(fingerprint, "draw_foreground", lambda images, segmentation, *, draws:
                      draw_foreground(images, segmentation, draws=min(draws, 1000)))
        assert extract_fingerprint.main(["-d", "990", "-np", "1", *at]) == 0
    assert plan_experiment.main(["-d", "990", *SMALL, *at]) == 0
    assert preprocess.main(["-d", "990", "-c", "2d", "-np", "1", *at]) == 0
    return root


def run(root: Path, output: Path, *words: str) -> int:
    return compare.main(["990", "2d", "--root", str(root), "-o", str(output), "--devices", "cpu", *words])


def case_of(root: Path, case: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Sources in 0..255, and properties."""
    source = root / "nnUNet_preprocessed" / DATASET
    plans = json.loads((source / "Fuse4SegPlans.json").read_text())
    data, _, _, properties = nnUNetDatasetBlosc2(str(source / "nnUNetPlans_2d")).load_case(case)
    return as_grey(data[:], windows_of(plans, "2d")), properties


@pytest.mark.slow
class TestCompare:
    @pytest.fixture(scope="class")
    def compared(self, planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Folder of a finished comparison; the images elsewhere are the first source, in 8 bits."""
        images, output = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("compared_alone") / "comparison"
        for path in (planned / "nnUNet_raw" / DATASET / "imagesTr").glob("*_0000.nii.gz"):
            case = path.name.removesuffix("_0000.nii.gz")
            sources, properties = case_of(planned, case)
            whole = np.zeros(properties["shape_before_cropping"], np.uint8)
            whole[tuple(slice(*ends) for ends in properties["bbox_used_for_cropping"])] = np.rint(sources[0])
            sitk.WriteImage(sitk.GetImageFromArray(whole), str(images / f"{case}.nii.gz"))
        assert run(planned, output, "--rows", "didfuse", "max", "--images", f"copy={images}") == 0
        return output

    @pytest.fixture
    def result(self, compared: Path) -> dict[str, Any]:
        return json.loads((compared / "comparison.json").read_text())

    def test_scores_rows_that_segment_nothing(self, result: dict[str, Any]) -> None:
        found = {one["name"]: one for one in result["results"]}
        assert found.keys() == {"didfuse", "max", "copy"}
        assert not any("segmentation" in one for one in found.values())
        assert len({tuple(one["fusion"]["cases"]) for one in found.values()}) == 1
        for one in found.values():
            assert one["fusion"]["mean"].keys() == {*METRICS, *(f"SSIM to {name}" for name in ("T1", "T1ce", "T2", "FLAIR"))}
        assert found["copy"]["fusion"]["mean"]["SSIM to T1"] == pytest.approx(1, abs=1e-3)
        assert list(result["trivial"][0]) == ["average", "maximum", "T1", "T1ce", "T2", "FLAIR"]

    def test_scores_all_slices_that_hold_tissue(self, planned: Path, result: dict[str, Any]) -> None:
        (case, found), = next(one for one in result["results"] if one["name"] == "max")["fusion"]["cases"].items()
        sources, _ = case_of(planned, case)
        shown = with_margin(sources[:, sources.any(axis=(0, 2, 3))])
        expected = fusion_metrics(shown.max(axis=0), list(shown))
        assert {name: found[name] for name in METRICS} == pytest.approx(expected)

    def test_trains_the_leader_by_its_own_recipe(self, compared: Path) -> None:
        plans = json.loads((compared / "data" / "didfuse" / DATASET / "Fuse4SegPlans.json").read_text())
        recipe = plans["fuse4seg"]["recipe"]
        assert (recipe["leader"]["network"], recipe["leader"]["folding"], recipe["bilevel"]) == ("didfuse", True, None)
        assert recipe["training"]["iterations"] == 2
        assert not (compared / "data" / "max").exists()

    def test_writes_one_table_and_one_case(self, compared: Path) -> None:
        page = (compared / "report.md").read_text()
        assert "## Segmentation" not in page
        assert "## Reading" not in page
        assert "that hold tissue" in page
        assert all(f"| {name} |" in page for name in ("didfuse", "max", "copy", "average"))
        assert (compared / "case.png").is_file()

    def test_scores_nothing_twice(self, planned: Path, compared: Path, result: dict[str, Any]) -> None:
        assert run(planned, compared, "--rows", "didfuse", "max", "--seed", "0") == 0
        assert json.loads((compared / "comparison.json").read_text())["results"] == result["results"]


def test_refuses_rows_that_need_labels(planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(planned, tmp_path / "out", "--rows", "stacked", "max", "swin_unet") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: --rows: the dataset has no labels, which stacked, swin_unet need.")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
