"""Fused images as files: NIfTI in [0, 1], pictures in 8 bits, in colour where a source was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image as Picture

from fuse4seg.datasets.grey_images import GREY, NEUTRAL, WHITE, GreyImage
from fuse4seg.files import make_writable_folder, written_whole
from fuse4seg.inference.export import image_written_whole


def write_fused(levels: np.ndarray, sources: Sequence[GreyImage], folder: Path, name: str) -> Path:
    """Write a fused image beside others, in the format and geometry of its first source.

    Args:
        levels: In 0..255, of the sources' shape.
        sources: What it was fused from.
        folder: Exists.
        name: Of the case.

    Returns:
        The file: float32 in [0, 1] for a volume, else 8-bit PNG; where a source has colour, in colour, and grey in ``grey``.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    if levels.ndim == 3:
        return _write_volume((levels / WHITE).astype(np.float32), sources[0].path, folder / f"{name}.nii.gz")
    path, grey = folder / f"{name}.png", Picture.fromarray(np.rint(levels).astype(np.uint8))
    colours = [source.chroma for source in sources if source.chroma is not None]
    if not colours:
        return _write_picture(grey, path)
    _write_picture(grey, make_writable_folder(folder / GREY) / path.name)
    chroma = blended_chroma(colours)
    parts = [grey, *(Picture.fromarray(np.ascontiguousarray(chroma[..., part])) for part in (0, 1))]
    return _write_picture(Picture.merge("YCbCr", parts).convert("RGB"), path)


def blended_chroma(colours: Sequence[np.ndarray]) -> np.ndarray:
    """Cb or Cr of several images, each weighted by how far from grey it is; that of one image as it is.

    Args:
        colours: uint8, shape (Y, X, 2) each.

    Source: Prabhakar et al., DeepFuse, 2017, Eq. 5.
    """
    offsets = np.stack(colours).astype(np.float64) - NEUTRAL
    weights = np.abs(offsets)
    total = weights.sum(axis=0)
    mean = np.divide((offsets * weights).sum(axis=0), total, where=total > 0, out=np.zeros_like(total))
    return np.rint(mean + NEUTRAL).astype(np.uint8)


def _write_picture(picture: Picture.Image, path: Path) -> Path:
    with written_whole(path) as temporary:
        picture.save(temporary)
    return path


def _write_volume(voxels: np.ndarray, like: Path, path: Path) -> Path:
    placed = sitk.ReadImage(str(like))
    image = sitk.GetImageFromArray(voxels if placed.GetDimension() == 3 else voxels[0])
    image.CopyInformation(placed)
    with image_written_whole(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
    return path
