"""Segmentations of a previous stage: on their case's grid, with the dataset's labels, or one line that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from fuse4seg.datasets.images import Geometry, read_image
from fuse4seg.errors import PreviousStageError
from fuse4seg.inference.previous_stage import previous_labels

LABELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
DESCRIPTION = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(LABELS, tmp_path / "a.nii.gz")


@pytest.fixture
def given(path: Path) -> dict[str, Any]:
    return {"expected": read_image(path, SimpleITKIO).geometry, "reader": SimpleITKIO, "dataset_json": DESCRIPTION}


def write(labels: np.ndarray, path: Path, *, spacing: float = 1.5) -> Path:
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((1, 1, spacing))
    sitk.WriteImage(image, str(path))
    return path


class TestPreviousLabels:
    def test_are_the_same_of_a_file_and_of_an_array(self, path: Path, given: dict[str, Any]) -> None:
        for source in (path, LABELS, LABELS.astype(np.float32)):
            labels = previous_labels(source, "a", **given)
            np.testing.assert_array_equal(labels, LABELS[None])
            assert labels.dtype == np.int16

    def test_are_missed(self, tmp_path: Path, given: dict[str, Any]) -> None:
        with pytest.raises(PreviousStageError, match=f"case b: there is no segmentation of the previous stage: expected "
                                                     f"{tmp_path / 'b.nii.gz'}. Add it, or"):
            previous_labels(tmp_path / "b.nii.gz", "b", **given)

    def test_are_unreadable(self, path: Path, given: dict[str, Any]) -> None:
        path.write_bytes(b"no image")
        with pytest.raises(PreviousStageError, match=f"case a: {path} cannot be read as an image"):
            previous_labels(path, "a", **given)

    def test_lie_on_another_grid(self, path: Path, given: dict[str, Any]) -> None:
        write(LABELS, path, spacing=2)
        with pytest.raises(PreviousStageError, match=rf"{path} has spacing \(2, 1, 1\) instead of \(1.5, 1, 1\)"):
            previous_labels(path, "a", **given)
        with pytest.raises(PreviousStageError, match=r"shape \(1, 3, 4\) instead of \(2, 3, 4\)"):
            previous_labels(LABELS[:1], "a", **{**given, "expected": Geometry((2, 3, 4), (1, 1, 1))})

    @pytest.mark.parametrize(("value", "named"), [(3, "3"), (0.5, "0.5"), (np.nan, "nan"), (-1, "-1")])
    def test_are_not_the_datasets(self, path: Path, given: dict[str, Any], value: float, named: str) -> None:
        labels = LABELS.astype(np.float32)
        labels[0, 0, 0] = value
        with pytest.raises(PreviousStageError, match=f"holds the value {named}, which the model's dataset.json does not name"):
            previous_labels(labels, "a", **given)
