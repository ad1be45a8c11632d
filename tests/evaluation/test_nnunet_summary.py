"""nnU-Net's summary: entry by entry that of nnU-Net itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from fuse4seg.evaluation.folders import evaluate_folders
from fuse4seg.evaluation.nnunet_summary import nnunet_summary, summarise_folder

LABELS = {"labels": {"background": 0, "core": 1, "oedema": 2, "rim": 3}, "file_ending": ".nii.gz"}
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 1, "ignore": 3}, "regions_class_order": [2, 1],
           "file_ending": ".nii.gz"}


@pytest.mark.parametrize(("description", "classes", "ignored"), [(LABELS, [1, 2, 3], None), (REGIONS, [(1, 2), 1], 3)])
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_is_that_of_nnunet(tmp_path: Path, description: dict[str, Any], classes: list[Any], ignored: int | None) -> None:
    random = np.random.default_rng(0)
    for case in "ab":
        for kind in ("predictions", "references"):
            (tmp_path / kind).mkdir(exist_ok=True)
            # Neither 1 nor 2 in case b, so that there is something to leave out.
            labels = random.integers(0, 4, (3, 4, 5)) if case == "a" else random.choice([0, 3], (3, 4, 5))
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(labels.astype(np.uint8)), str(tmp_path / kind / f"{case}.nii.gz"))
    folders = tmp_path / "predictions", tmp_path / "references"
    compute_metrics_on_folder(str(folders[1]), str(folders[0]), str(tmp_path / "stock.json"), SimpleITKIO(), ".nii.gz", classes,
                              ignored, num_processes=1)
    ours = nnunet_summary(evaluate_folders(*folders, dataset_json=description), predictions=folders[0], references=folders[1],
                          ending=".nii.gz")
    stock = json.loads((tmp_path / "stock.json").read_text())
    assert list(json.loads(json.dumps(ours, sort_keys=True))) == list(stock)
    assert flat(ours) == pytest.approx(flat(stock), nan_ok=True)
    alone = summarise_folder(*folders, dataset_json=description, reader=SimpleITKIO)
    assert flat(alone) == pytest.approx(flat(ours), nan_ok=True)


def flat(content: Any, place: str = "") -> dict[str, Any]:
    """Every number or text by its place."""
    if isinstance(content, (dict, list)):
        entries = content.items() if isinstance(content, dict) else enumerate(content)
        return {key: value for name, entry in entries for key, value in flat(entry, f"{place}/{name}").items()}
    return {place: content}
