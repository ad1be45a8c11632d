"""Demosaicing: what each place of a raster of voxels shows, as an image of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def demosaic(image: Tensor, block: Sequence[int]) -> Tensor:
    """Interpolate, linearly along each axis, between the voxels that have the same place within their blocks.

    A halftone shows different modalities at different places, as a camera's colour filter shows it different colours; this is
    how a camera reads them. The image of a place has the values of ``image`` at the voxels of that place, straight lines between
    them, and beyond the outermost of them their values.

    Args:
        image: Shape (B, 1, *S), along no axis smaller than a block; a block begins at its first voxel.
        block: Voxels of a block along each axis.

    Returns:
        One image per place, in row-major order, shape (B, prod(block), *S).
    """
    for axis, step in enumerate(block, start=2):
        image = torch.stack([_between(image, axis=axis, start=start, step=step) for start in range(step)], dim=2).flatten(1, 2)
    return image


def _between(images: Tensor, *, axis: int, start: int, step: int) -> Tensor:
    """Lines along an axis through every ``step``-th value from ``start`` on."""
    extent = images.shape[axis]
    last = (extent - 1 - start) // step
    at = ((torch.arange(extent, device=images.device) - start) / step).clamp(0, last)
    below = at.long()
    lower, upper = (images.index_select(axis, start + step * index) for index in (below, (below + 1).clamp_max(last)))
    return torch.lerp(lower, upper, (at - below).to(images.dtype).view(-1, *[1] * (images.ndim - 1 - axis)))
