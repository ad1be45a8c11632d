"""Two images on one checkerboard: where edges break at the borders of its squares, the images lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from scipy.ndimage import zoom

from fuse4seg.files import written_whole
from fuse4seg.inference.panel import stretched

#: Squares along the longest edge of a plane, and pixels along it.
SQUARES, EDGE = 8, 320
#: Between planes, in pixels.
GAP = 8


def checkerboard(reference: np.ndarray, moving: np.ndarray, spacing: Sequence[float], *, squares: int = SQUARES) -> np.ndarray:
    """Squares of two images in turns, in the three planes through the middle of the reference image's body.

    Args:
        reference: Any intensities, shape (Z, Y, X); the first square of each plane, at the top left, is its.
        moving: Shape (Z, Y, X).
        spacing: Millimetres along Z, Y, X, to show planes in their proportions.
        squares: Along the longest edge of a plane.

    Returns:
        Levels in 0..255, uint8, the planes across Z, Y and X side by side, heads up, where Z goes from foot to head; the only
        slice of an image that has one.

    Example:
        >>> checkerboard(np.eye(40)[None], np.eye(40)[None], (1, 1, 1)).shape
        (320, 320)
    """
    images = [stretched(image) for image in (reference, moving)]
    filled = np.argwhere(images[0] > images[0].min())
    middle = (filled.min(axis=0) + filled.max(axis=0)) // 2 if len(filled) else np.array(reference.shape) // 2
    planes = []
    for axis in range(1 if len(reference) == 1 else 3):
        pair = [np.take(image, middle[axis], axis=axis) for image in images]
        pair = [plane if axis == 0 else plane[::-1] for plane in pair]
        planes.append(_in_turns(*(_enlarged(plane, np.delete(np.asarray(spacing, float), axis)) for plane in pair), squares))
    height = max(len(plane) for plane in planes)
    framed = [np.pad(plane, ((0, height - len(plane)), (0, GAP if number + 1 < len(planes) else 0)))
              for number, plane in enumerate(planes)]
    return np.rint(255 * np.concatenate(framed, axis=1)).astype(np.uint8)


def write_checkerboard(path: Path, reference: np.ndarray, moving: np.ndarray, spacing: Sequence[float]) -> None:
    """Write :func:`checkerboard` as a PNG.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    with written_whole(path) as temporary:
        Picture.fromarray(checkerboard(reference, moving, spacing)).save(temporary)


def _enlarged(plane: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """A plane whose longest edge has EDGE pixels, in its proportions."""
    extent = plane.shape * spacing
    pixels = np.maximum(1, np.rint(EDGE * extent / extent.max()))
    return np.clip(zoom(plane, pixels / plane.shape, order=1, grid_mode=True, mode="nearest"), 0, 1)


def _in_turns(one: np.ndarray, other: np.ndarray, squares: int) -> np.ndarray:
    rows, columns = (np.arange(extent) * squares // EDGE for extent in one.shape)
    return np.where((rows[:, None] + columns) % 2 == 0, one, other)
