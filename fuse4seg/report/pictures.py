"""Pictures of a case for its report: strips of tiles, one strip for each of three planes through the predicted tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as Picture
from scipy.ndimage import find_objects

from fuse4seg.colour import WHITE, grey_levels, window_of, windowed
from fuse4seg.files import written_whole
from fuse4seg.inference.panel import coloured, telling_slice
from fuse4seg.report.case_images import CaseImages

#: Planes by the axis that they cut, of arrays (Z, Y, X).
PLANES = ("axial", "coronal", "sagittal")
#: Pixels along the longer side of a tile, and between tiles; squares of the checkerboard along it.
SIDE, GAP, SQUARES = 220, 4, 8
#: Voxels of background that are left around the image.
MARGIN = 2


class Strip(NamedTuple):
    """Tiles side by side.

    Attributes:
        plane: One of PLANES.
        index: Of the slice.
        titles: Of the tiles.
        pixels: uint8, shape (height, width, 3).
    """

    plane: str
    index: int
    titles: tuple[str, ...]
    pixels: np.ndarray


@dataclass(frozen=True)
class Tiles:
    """What is shown side by side: by its title an image, and the labels over it or None.

    Attributes:
        images: uint8, shape (Z, Y, X, 3).
        labels: Shape (Z, Y, X).
    """

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


def strips(images: CaseImages, *, suspects: Sequence[tuple[str, str]] = ()) -> list[Strip]:
    """The slice with most foreground and the two planes across it that have most; of a picture it alone.

    Args:
        images: Of the case.
        suspects: Modalities that may not be aligned, each with the one that it is held against: both make a checkerboard.
    """
    box = shown_box(images)
    tiles = _tiles(images, suspects, box)
    labels = next((found for found in (images.labels, images.reference) if found is not None), None)
    made = []
    for axis, plane in enumerate(PLANES[:1] if images.is_flat else PLANES):
        index = telling_index(images.fused[(slice(None), *box)], None if labels is None else labels[box], axis)
        spacing = [step for number, step in enumerate(images.spacing) if number != axis]
        drawn = [_tile(image, tiles.labels.get(title), axis, index, spacing) for title, image in tiles.images.items()]
        made.append(Strip(plane, index + box[axis].start, tuple(tiles.images), _side_by_side(drawn)))
    return made


def write_strip(strip: Strip, path: Path) -> None:
    """Write it as a PNG.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    with written_whole(path) as temporary:
        Picture.fromarray(strip.pixels).save(temporary, format="PNG")


def telling_index(fused: np.ndarray, labels: np.ndarray | None, axis: int) -> int:
    """Slice along an axis with most foreground or, without labels, the brightest.

    Args:
        fused: Shape (C, Z, Y, X).
        labels: Shape (Z, Y, X), or None.
        axis: 0, 1 or 2.
    """
    if labels is None or not labels.any():
        return int(np.moveaxis(fused, axis + 1, 0).sum(axis=(1, 2, 3), dtype=np.int64).argmax())
    return telling_slice(np.moveaxis(labels, axis, 0))


def shown_box(images: CaseImages) -> tuple[slice, slice, slice]:
    """The foreground with a margin: of an image, its labels and its true labels."""
    inside = images.inside
    for labels in (images.labels, images.reference):
        inside = inside if labels is None else inside | (labels > 0)
    if not inside.any():
        return tuple(slice(0, length) for length in inside.shape)
    found = find_objects(inside.astype(np.uint8))[0]
    return tuple(slice(max(part.start - MARGIN, 0), min(part.stop + MARGIN, length))
                 for part, length in zip(found, inside.shape, strict=True))


def grey_window(source: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Intensities that are shown black and white: percentiles of what is inside the fused image."""
    return window_of(source[inside] if inside.any() else source)


def _tiles(images: CaseImages, suspects: Sequence[tuple[str, str]], box: tuple[slice, ...]) -> Tiles:
    inside = images.inside
    shown = {name: _levels(source[box], grey_window(source, inside)) for name, source in images.sources.items()}
    tiles = {name: _in_colour(levels[None]) for name, levels in shown.items()}
    for name, other in suspects:
        if name in shown and other in shown:
            tiles[f"{name} and {other}"] = _in_colour(_checkerboard(shown[name], shown[other])[None])
    fused = images.fused[(slice(None), *box)]
    tiles["fused"] = _in_colour(fused)
    # What labels lie over must not have colours of its own.
    beneath = _in_colour(grey_levels(fused)[None])
    over = {title: labels[box] for title, labels in (("segmentation", images.labels), ("reference", images.reference))
            if labels is not None}
    return Tiles({**tiles, **dict.fromkeys(over, beneath)}, over)


def _levels(source: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    return np.rint(WHITE * windowed(source.astype(np.float32), *window)).astype(np.uint8)


def _in_colour(levels: np.ndarray) -> np.ndarray:
    """Levels (C, Z, Y, X) as (Z, Y, X, 3)."""
    return np.moveaxis(np.broadcast_to(levels, (3, *levels.shape[1:])), 0, -1)


def _checkerboard(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squares of one image and the other in turn, along all axes."""
    side = max(1, max(one.shape) // SQUARES)
    turn = sum(np.ix_(*(np.arange(length) // side for length in one.shape)))
    return np.where(turn % 2 == 0, one, other)


def _tile(image: np.ndarray, labels: np.ndarray | None, axis: int, index: int, spacing: Sequence[float]) -> np.ndarray:
    """One slice, with square pixels; uint8, shape (height, width, 3)."""
    cut = np.take(image, index, axis=axis)
    # Heads are up: across the slices, Z grows upwards.
    cut = cut if axis == 0 else cut[::-1]
    size = _size(cut.shape[:2], spacing)
    drawn = np.asarray(Picture.fromarray(np.ascontiguousarray(cut)).resize(size, Picture.Resampling.BILINEAR), np.float32)
    if labels is not None:
        over = np.take(labels, index, axis=axis)
        over = Picture.fromarray(np.ascontiguousarray(over if axis == 0 else over[::-1])).resize(size, Picture.Resampling.NEAREST)
        paint = coloured(np.asarray(over))
        drawn = drawn + paint[..., 3:] * (WHITE * paint[..., :3] - drawn)
    return np.rint(drawn).astype(np.uint8)


def _size(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, int]:
    """Width and height in pixels."""
    height, width = (length * step for length, step in zip(shape, spacing, strict=True))
    scale = SIDE / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _side_by_side(tiles: Sequence[np.ndarray]) -> np.ndarray:
    height, width = tiles[0].shape[:2]
    strip = np.zeros((height, len(tiles) * (width + GAP) - GAP, 3), np.uint8)
    for number, tile in enumerate(tiles):
        strip[:, number * (width + GAP):number * (width + GAP) + width] = tile
    return strip
