"""Images that lie on the grids of their cases, brought to where the preprocessed cases are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.colour import WHITE, windowed
from fuse4seg.datasets.grey_images import GreyRange, read_header
from fuse4seg.datasets.grey_ranges import range_of
from fuse4seg.datasets.images import find_reader, read_image
from fuse4seg.errors import FaultyImageError, UnpairedCasesError

log = logging.getLogger(__name__)
OF_8_BITS = (sitk.sitkUInt8, sitk.sitkVectorUInt8)


@dataclass(frozen=True)
class CaseGrid:
    """How the cases were preprocessed.

    Attributes:
        plans: Of the dataset, read.
        configuration: Such as 2d.
        dataset_json: Of the dataset.
    """

    plans: PlansManager
    configuration: str
    dataset_json: dict[str, Any]

    def image(self, path: Path, case: str, shape: tuple[int, ...], properties: dict[str, Any]) -> np.ndarray:
        """An image of the case's own grid, transposed, cropped and resampled as the case was.

        Args:
            path: The file.
            case: Whose.
            shape: Of the preprocessed case, (Z, Y, X).
            properties: Of the preprocessed case.

        Returns:
            Intensities as they are, float32, shape (1, Z, Y, X).

        Raises:
            FaultyImageError: It is of another shape than the case.
        """
        manager = self.plans.get_configuration(self.configuration)
        return self._brought(path, case, shape, properties, resample=manager.resampling_fn_data)

    def labels(self, path: Path, case: str, shape: tuple[int, ...], properties: dict[str, Any]) -> np.ndarray:
        """The same of label values, int, shape (Z, Y, X)."""
        manager = self.plans.get_configuration(self.configuration)
        found = self._brought(path, case, shape, properties, resample=manager.resampling_fn_seg, labels=True)
        return np.rint(found[0]).astype(int)

    def read(self, path: Path, *, labels: bool = False) -> np.ndarray:
        """Voxels of a file, shape (1, Z, Y, X)."""
        return read_image(path, find_reader(self.dataset_json, [path]), labels=labels).voxels

    def _brought(self, path: Path, case: str, shape: tuple[int, ...], properties: dict[str, Any], *,
                 resample: Callable[..., Any], labels: bool = False) -> np.ndarray:
        transpose = self.plans.transpose_forward
        voxels = self.read(path, labels=labels).transpose(0, *(axis + 1 for axis in transpose))
        if tuple(voxels.shape[1:]) != tuple(properties["shape_before_cropping"]):
            raise FaultyImageError(case, f"{path} has shape {voxels.shape[1:]}, the case {properties['shape_before_cropping']}. "
                                         "Give the fused image on the grid of its sources.")
        cropped = voxels[(slice(None), *(slice(*bounds) for bounds in properties["bbox_used_for_cropping"]))]
        spacing = [properties["spacing"][axis] for axis in transpose]
        planned = self.plans.get_configuration(self.configuration).spacing
        wanted = [*spacing[:len(spacing) - len(planned)], *planned]
        return np.asarray(resample(cropped.astype(np.float32), shape, spacing, wanted))


@dataclass(frozen=True)
class FusedElsewhere:
    """A folder of images that another method fused, one per training case.

    Attributes:
        folder: Of CASE with the dataset's ending.
        grid: Of the cases.
    """

    folder: Path
    grid: CaseGrid

    def image(self, case: str, shape: tuple[int, ...], properties: dict[str, Any]) -> np.ndarray:
        """Intensities as they are; see :meth:`CaseGrid.image`.

        Raises:
            UnpairedCasesError: There is none of the case.
            FaultyImageError: It is of another shape than the case.
        """
        path = self._path(case)
        if not path.is_file():
            raise UnpairedCasesError(f"{self.folder} has no image {path.name}. Fuse every training case.")
        return self.grid.image(path, case, shape, properties)

    def levels(self, case: str, shape: tuple[int, ...], properties: dict[str, Any]) -> np.ndarray:
        """The same in 0..255: 8-bit images as they are, others by the window that the folder's images show."""
        image = self.image(case, shape, properties)
        if _is_8_bit(self._path(case)):
            return np.clip(image, 0, WHITE)
        return windowed(image, self.range.low, self.range.high) * WHITE

    @cached_property
    def range(self) -> GreyRange:
        """Black and white of all images that are not 8-bit."""
        files = sorted(self.folder.glob(f"*{self.grid.dataset_json['file_ending']}"))
        shown = range_of(self._deep(files), len(files))
        if shown.clips:
            log.info("%s: measured black %g and white %g", self.folder, shown.low, shown.high)
        return shown

    def _deep(self, files: list[Path]) -> Iterator[np.ndarray]:
        return (self.grid.read(path)[0] for path in files if not _is_8_bit(path))

    def _path(self, case: str) -> Path:
        return self.folder / f"{case}{self.grid.dataset_json['file_ending']}"


def _is_8_bit(path: Path) -> bool:
    return read_header(path).GetPixelID() in OF_8_BITS
