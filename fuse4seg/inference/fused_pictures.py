"""Fused images beside their sources: volumes as f4s_predict writes them, pictures as PNG, in colour where a source was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from fuse4seg.datasets.grey_images import GREY, NEUTRAL, GreyImage
from fuse4seg.files import make_writable_folder, written_whole
from fuse4seg.inference.fused_files import write_fused


def write_beside(fused: np.ndarray, sources: Sequence[GreyImage], folder: Path, name: str) -> list[Path]:
    """Write a fused image beside others, in the geometry of its first source.

    Args:
        fused: In 0..255, shape (C, *S of a source), C 1, or 3 in colour.
        sources: What it was fused from.
        folder: Exists.
        name: Of the case.

    Returns:
        The files, 8 bits a channel: NIfTI of volumes, else PNG. A grey picture of sources in colour gets their colour back. The
        luma of those in colour is in ``grey``.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    levels = np.rint(fused).astype(np.uint8)
    if levels.ndim == 4:
        return write_fused(levels, folder, name, ".nii.gz", sources[0].properties)
    colours = [source.colour for source in sources if source.colour is not None]
    if len(levels) == 1 and colours:
        _write_picture(Picture.fromarray(levels[0]), make_writable_folder(folder / GREY) / f"{name}.png")
        return [_write_picture(_coloured(levels[0], colours), folder / f"{name}.png"), folder / GREY / f"{name}.png"]
    return write_fused(levels[:, None], folder, name, ".png", {})


def _coloured(grey: np.ndarray, colours: Sequence[np.ndarray]) -> Picture.Image:
    """A grey picture (Y, X) with the chroma of sources (3, Y, X)."""
    chroma = blended_chroma([np.asarray(Picture.fromarray(colour.transpose(1, 2, 0).copy()).convert("YCbCr"))[..., 1:]
                             for colour in colours])
    parts = [Picture.fromarray(np.ascontiguousarray(part)) for part in (grey, chroma[..., 0], chroma[..., 1])]
    return Picture.merge("YCbCr", parts).convert("RGB")


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
