"""Images of one case on one grid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

log = logging.getLogger(__name__)

#: How far voxels may be off, in millimetres and as a part of the spacing, on grids that are the same: header rounding.
MILLIMETRES, PART = 1e-3, 1e-4


def index_of_grid(images: Sequence[object | None], reference: int) -> int:
    """Index of the image whose grid a case gets: the reference or, where that is absent (None), the first that is there.

    >>> index_of_grid([None, "T1ce", "FLAIR"], 2), index_of_grid([None, "T1ce", "FLAIR"], 0)
    (2, 1)
    """
    there = [index for index, image in enumerate(images) if image is not None]
    return reference if reference in there else there[0]


def is_on_grid(image: sitk.Image, reference: sitk.Image) -> bool:
    """Whether two volumes have the same voxels in space, up to the rounding of headers.

    >>> image = sitk.Image([4, 5, 6], sitk.sitkFloat32)
    >>> is_on_grid(image, image), is_on_grid(image[1:], image)
    (True, False)
    """
    if image.GetSize() != reference.GetSize():
        return False
    tolerance = MILLIMETRES + PART * min(reference.GetSpacing())
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.GetSize()) - 1.0)
    places = [[one.TransformContinuousIndexToPhysicalPoint(corner) for corner in corners.tolist()]
              for one in (image, reference)]
    return np.allclose(*places, rtol=0, atol=tolerance)


def brought_to_grid(image: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """An image's intensities at another's voxels, interpolated linearly, 0 outside; as they are on the same grid.

    Args:
        image: Volume, float32.
        reference: Volume in the same space, mm.

    Returns:
        float32, with exactly the place of ``reference``.
    """
    if is_on_grid(image, reference):
        placed = sitk.Image(image)
        placed.CopyInformation(reference)
        return placed
    return sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)


def write_on_grid(image: sitk.Image, grid: sitk.Image, path: Path, case: str, channel: str) -> None:
    """Write an image on a grid; the log tells if that took resampling.

    Args:
        image: Volume, float32.
        grid: The reference.
        path: Its ending chooses the format.
        case: For the log.
        channel: For the log.
    """
    if not is_on_grid(image, grid):
        log.warning("%s: %s is resampled linearly, from %s to the reference's %s", case, channel, _said(image),
                    _said(grid))
    sitk.WriteImage(brought_to_grid(image, grid), str(path), useCompression=True)


def _said(image: sitk.Image) -> str:
    spacing = " x ".join(f"{step:.3g}" for step in image.GetSpacing())
    return f"{' x '.join(map(str, image.GetSize()))} voxels of {spacing} mm"
