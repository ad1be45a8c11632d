"""The images of one case on one grid, turned as films hang: left is on the right, and down is the feet or the back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from fuse4seg.case_faults import fault_of
from fuse4seg.datasets.dataset_json import label_values
from fuse4seg.datasets.images import geometry_difference, geometry_of, read_image
from fuse4seg.errors import Fuse4SegError, UnsuitableImageError
from fuse4seg.files import checksum
from fuse4seg.inference.image_files import PLACED, affine_of, placed, read_fused
from fuse4seg.report.prediction import PredictedCase, Prediction

log = logging.getLogger(__name__)

#: Of anatomical axes in ITK's words: x grows to the left, y to the back, z to the head.
AS_HUNG = "LPS"


@dataclass(frozen=True)
class CaseImages:
    """Arrays of one case, all of shape (Z, Y, X) or (C, Z, Y, X).

    Attributes:
        fused: In 0..255, uint8, shape (C, Z, Y, X), C 1 or 3.
        affine: From voxels (x, y, z) to millimetres to the right, front and head, shape (4, 4).
        spacing: Millimetres along Z, Y, X.
        labels: Predicted values, or None.
        reference: True values, or None.
        sources: Intensities, by the names of the modalities that could be read.
        entropy: In nats, or None.
        absent: Why a modality is not in ``sources``, by its name.
        faults: Of other files that could not be read, in a line each.
    """

    fused: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, ...]
    labels: np.ndarray | None = None
    reference: np.ndarray | None = None
    sources: Mapping[str, np.ndarray] = field(default_factory=dict)
    entropy: np.ndarray | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    faults: Sequence[str] = ()

    @property
    def is_flat(self) -> bool:
        """Whether it is one slice."""
        return self.fused.shape[1] == 1

    @property
    def inside(self) -> np.ndarray:
        """Where the fused image is, bool, shape (Z, Y, X)."""
        return (self.fused > 0).any(axis=0)


def read_case(case: PredictedCase, prediction: Prediction, *, reference: Path | None = None) -> CaseImages:
    """Read everything that there is of a case.

    Args:
        case: Predicted.
        prediction: Its folder.
        reference: Its true labels, or None.

    Returns:
        Its images; sources, true labels and entropy that cannot be read, or are others than were predicted, are left out and
        named.

    Raises:
        UnreadableImageError, UnsuitableImageError: The fused image or the segmentation cannot be read, or they do not fit.
    """
    fused, properties = read_fused(case.fused, prediction.reader)
    geometry = geometry_of(fused.shape[1:], properties)
    affine, spacing = _place(fused[0], properties)
    read = _Reading(prediction, geometry)
    labels = None if case.segmentation is None else read.labels(case.segmentation)
    sources: dict[str, np.ndarray] = {}
    absent: dict[str, str] = {}
    for name in prediction.modalities:
        try:
            sources[name] = read.source(case, name)
        except Fuse4SegError as error:
            absent[name] = str(error)
    faults: list[str] = []
    truth = None if reference is None else _tried(lambda: read.labels(reference), case.name, faults)
    entropy = None if case.uncertainty is None else _tried(lambda: read.image(case.uncertainty), case.name, faults)
    hung = np.stack([_hung(channel, properties) for channel in fused])
    return CaseImages(hung, affine, spacing, labels, truth, sources, entropy, absent, faults)


class _Reading:
    """Reads files that lie where the fused image lies."""

    def __init__(self, prediction: Prediction, geometry: Any) -> None:
        self.prediction, self.geometry = prediction, geometry

    def image(self, path: Path, *, channel: int = 0, channels: int = 1, labels: bool = False) -> np.ndarray:
        read = read_image(path, self.prediction.reader, channels=channels, labels=labels)
        if difference := geometry_difference(read.geometry, self.geometry):
            raise UnsuitableImageError(path, f"has {difference} in the fused image. Give the image that was predicted.")
        return _hung(read.voxels[channel], read.properties)

    def labels(self, path: Path) -> np.ndarray:
        values = self.image(path, labels=True)
        if surplus := sorted(set(np.unique(values).tolist()) - label_values(self.prediction.dataset_json)):
            raise UnsuitableImageError(path, f"holds the value {surplus[0]:g}, which dataset.json does not name. Correct it.")
        return values.astype(np.uint8)

    def source(self, case: PredictedCase, modality: str) -> np.ndarray:
        """A modality's intensities.

        Raises:
            Fuse4SegError: They cannot be had; the message says why.
        """
        if modality in case.told.get("absent", ()):
            raise Fuse4SegError("the case was predicted without it")
        path = case.sources.get(modality)
        if path is None or not path.is_file():
            raise Fuse4SegError("its file is not known" if path is None else f"{path} has gone")
        known = case.told.get("sources", {}).get(path.name)
        if known is not None and checksum(path) != known:
            raise UnsuitableImageError(path, "has changed since it was predicted.")
        together = [name for name, file in case.sources.items() if file == path]
        try:
            return self.image(path, channel=together.index(modality), channels=len(together))
        except Exception as error:
            raise fault_of(error, case.name) from error


def _tried(read: Any, case: str, faults: list[str]) -> np.ndarray | None:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
        faults.append(str(fault_of(error, case)))
        return None


def _place(voxels: np.ndarray, properties: dict[str, Any]) -> tuple[np.ndarray, tuple[float, ...]]:
    """The affine of the turned image, and its spacing along Z, Y, X."""
    if properties.keys() & PLACED and (image := placed(voxels, properties)).GetDimension() == 3:
        turned = sitk.DICOMOrient(image, AS_HUNG)
        return affine_of(turned), tuple(turned.GetSpacing()[::-1])
    # Pictures have no place in space: they are hung as they are, and nnU-Net's 999 mm between their slices mean nothing.
    spacing = (1.0, *map(float, properties["spacing"][-2:]))
    return np.diag([-spacing[2], -spacing[1], spacing[0], 1.0]), spacing


def _hung(voxels: np.ndarray, properties: dict[str, Any]) -> np.ndarray:
    """Voxels (Z, Y, X) of nnU-Net's reader, turned to LPS where they have a place in space."""
    if not properties.keys() & PLACED or (image := placed(voxels, properties)).GetDimension() == 2:
        return voxels
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, AS_HUNG))
