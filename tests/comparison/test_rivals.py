"""Rivals by the command: a leader trained alone before stock nnU-Net, another follower, and a leader that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from fuse4seg.cli.compare import main
from fuse4seg.comparison.prepared_data import standardised

DATASET = "Dataset990_Phantom"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Folder of the comparison, and the status; a file lies where the training of TarDAL's leader would write."""
    output = tmp_path_factory.mktemp("rivals") / "comparison"
    obstacle = output / "fusions" / "tardal.alone" / "fold0_seed0" / DATASET
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("")
    return output, main(["990", "2d", "--root", str(planned_phantom), "-o", str(output), "--devices", "cpu",
                         "--rows", "didfuse", "swin_unet", "tardal"])


@pytest.fixture
def result(compared: tuple[Path, int]) -> dict[str, Any]:
    return json.loads((compared[0] / "comparison.json").read_text())


def test_a_failed_leader_leaves_its_row_out(compared: tuple[Path, int], result: dict[str, Any]) -> None:
    output, status = compared
    assert status == 1
    assert [found["name"] for found in result["results"]] == ["didfuse", "swin_unet"]
    assert not (output / "trainings" / "tardal").exists()
    assert "error: " in (output / "fusions" / "tardal.alone" / "fold0_seed0" / "log.txt").read_text()


def test_stock_nnunet_gets_what_the_leader_fused(compared: tuple[Path, int], result: dict[str, Any]) -> None:
    """The exported image of the validation case, standardised; its spacing is the plans'."""
    output, _ = compared
    (case,) = result["results"][0]["segmentation"]["cases"]
    exported = next((output / "fusions").rglob(f"validation/fused/{case}.nii.gz"))
    data, labels, _, properties = nnUNetDatasetBlosc2(
        str(output / "data" / "didfuse_fold0_seed0" / DATASET / "nnUNetPlans_2d")).load_case(case)
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(exported)))[None].astype(np.float32)
    image = image[(slice(None), *(slice(*ends) for ends in properties["bbox_used_for_cropping"]))]
    plans = json.loads((output / "data" / "didfuse_fold0_seed0" / DATASET / "Fuse4SegPlans.json").read_text())
    inside = labels[:] >= 0 if plans["configurations"]["2d"]["use_mask_for_norm"][0] else None
    np.testing.assert_allclose(data[:], standardised(image, inside), atol=0.02)


def test_scores_the_leader_s_images_and_its_costs(result: dict[str, Any]) -> None:
    fusing, other = result["results"]
    assert fusing["pretrain_epochs"] == 2  # those of the leader alone
    assert "visibility" in fusing["fusion"]["mean"]
    assert "fusion" not in other


def test_the_other_follower_is_trained_on_all_channels(compared: tuple[Path, int], result: dict[str, Any]) -> None:
    plans = json.loads((compared[0] / "data" / "swin_unet" / DATASET / "Fuse4SegPlans.json").read_text())
    follower = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["follower"]
    assert follower["network_class_name"] == "fuse4seg.followers.swin_unet.SwinUNet"
    assert result["results"][1]["parameters"] > 2e7


def test_the_page_has_the_rows_and_one_case(compared: tuple[Path, int]) -> None:
    page = (compared[0] / "report.md").read_text()
    assert all(f"| {name} |" in page for name in ("didfuse", "swin_unet"))
    assert "(case.png)" in page
