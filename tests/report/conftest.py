"""A folder as f4s_predict leaves it, made without a model: small volumes whose every number is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Picture

from fuse4seg.files import checksum

DATASET_JSON = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "oedema": 1, "core": 2}, "numTraining": 5,
                "file_ending": ".nii.gz"}
#: Voxels along Z, Y, X, and millimetres along x, y, z.
SHAPE, SPACING = (12, 20, 16), (1.0, 2.0, 3.0)
VERSIONS = {"fuse4seg": "0.1.0", "torch": "2.13.0"}


@dataclass
class Made:
    """Folders of a prediction, and the arrays in them, as they are stored."""

    folder: Path
    images: Path
    labels: Path
    fused: dict[str, np.ndarray] = field(default_factory=dict)
    segmented: dict[str, np.ndarray] = field(default_factory=dict)
    true: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def told(self, case: str, **entries: Any) -> None:
        """Change what run.json says of a case."""
        path = self.folder / "run.json"
        record = json.loads(path.read_text())
        record["cases"].setdefault(case, {}).update(entries)
        path.write_text(json.dumps(record))

    def as_pictures(self, case: str) -> None:
        """Leave a case's seventh slices, as PNG, in place of its volumes."""
        for old in [*self.folder.glob("*.nii.gz"), *self.folder.glob("fused/*"), *self.images.iterdir()]:
            old.unlink()
        path = self.folder / "dataset.json"
        path.write_text(path.read_text().replace(".nii.gz", ".png"))
        self.told(case, sources={})
        for target, volume in ((self.folder, self.segmented[case]), (self.folder / "fused", self.fused[case])):
            Picture.fromarray(volume[6]).save(target / f"{case}.png")
        for channel, source in enumerate(self.sources[case]):
            Picture.fromarray(source[6].astype(np.uint8)).save(self.images / f"{case}_{channel:04d}.png")


def write(voxels: np.ndarray, path: Path, *, direction: Sequence[float] = (1, 0, 0, 0, 1, 0, 0, 0, 1)) -> Path:
    """Write an array (Z, Y, X), or in colour (Z, Y, X, 3), as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels, isVector=voxels.ndim == 4)
    image.SetSpacing(SPACING)
    image.SetOrigin((5.0, -7.0, 11.0))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


def ball(centre: Sequence[float], radius: float) -> np.ndarray:
    """Where a voxel is that near to another, in voxels."""
    places = np.indices(SHAPE)
    return sum((place - middle)**2 for place, middle in zip(places, centre, strict=True)) <= radius**2


def _case(made: Made, name: str, number: int) -> None:
    random = np.random.default_rng(number)
    head = ball((5.5, 9.5, 7.5), 7.2)
    predicted = np.zeros(SHAPE, np.uint8)
    predicted[ball((6, 9 + number % 3, 8), 4) & head] = 1
    predicted[ball((6, 9 + number % 3, 8), 2) & head] = 2
    true = np.roll(predicted, 1, axis=2)
    sources = [(random.uniform(*window, SHAPE) * head).astype(np.float32) for window in ((100, 900), (-1, 1))]
    fused = np.stack([random.integers(1, 256, SHAPE) * head for _ in range(3)], axis=-1).astype(np.uint8)
    write(fused, made.folder / "fused" / f"{name}.nii.gz")
    write(predicted, made.folder / f"{name}.nii.gz")
    write(true, made.labels / f"{name}.nii.gz")
    files = [write(source, made.images / f"{name}_{channel:04d}.nii.gz") for channel, source in enumerate(sources)]
    made.fused[name], made.segmented[name], made.true[name], made.sources[name] = fused, predicted, true, sources
    made.told(name, status="done", seconds=1.5, sources={file.name: checksum(file) for file in files}, absent=[],
              outputs=[f"{name}.nii.gz", f"fused/{name}.nii.gz"])


@pytest.fixture(scope="session")
def write_prediction() -> Callable[..., Made]:
    """Function of a folder and names of cases that writes a prediction of these, their sources and their true labels."""

    def make(root: Path, *names: str) -> Made:
        made = Made(root / "predictions", root / "images", root / "labels")
        made.folder.mkdir(parents=True)
        (made.folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
        made_by = {"model": "Fuse4SegTrainer__Fuse4SegPlans__2d", "folds": [0], "checkpoint": "checkpoint_final.pth",
                   "weights": ["ab" * 32], "options": {"mirroring": True}, "device": "cpu", "versions": VERSIONS,
                   "input": {"folder": str(made.images)}}
        (made.folder / "run.json").write_text(json.dumps({"made_by": made_by, "cases": {}}))
        for number, name in enumerate(names):
            _case(made, name, number)
        return made

    return make


@pytest.fixture
def make_prediction(write_prediction: Callable[..., Made], tmp_path: Path) -> Callable[..., Made]:
    """The same in a folder of this test's, ``place`` in it."""

    def make(*names: str, place: str = "here") -> Made:
        return write_prediction(tmp_path / place, *names)

    return make
