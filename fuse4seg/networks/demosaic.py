"""Demosaicing: each modality as an image of its own, from what its voxels in a halftone show."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def demosaic(image: Tensor, owned: Tensor) -> Tensor:
    """Each modality's own voxels, and between them what the nearest of these give.

    A halftone shows modalities at voxels of their own, as a camera's colour filter shows colours; this is how a camera reads
    them: at other voxels stands the mean over the own ones around, which weigh the less the further they are, along each axis
    in a straight line (with one voxel of a block, bilinear interpolation).

    Args:
        image: Shape (B, 1, *S), along no axis smaller than a block; a block begins at its first voxel.
        owned: Which voxels of a block belong to which modality, each to one at least, bool of shape (N, *block).

    Returns:
        Shape (B, N, *S).
    """
    own = _tiled(owned, image.shape[2:])
    weights = own.to(image.dtype)
    around = _spread(image * weights, owned.shape[1:]) / _spread(weights, owned.shape[1:])
    return torch.where(own, image, around)


def unmix(images: Tensor, *, strength: float) -> Tensor:
    """What was mixed: each image shows ``strength`` of its own modality and, of the rest, the mean of all.

    Args:
        images: Shape (B, N, *S).
        strength: Above 0, at most 1.

    Returns:
        Shape (B, N, *S).
    """
    return (images - (1 - strength) / images.shape[1] * images.sum(dim=1, keepdim=True)) / strength


def _tiled(owned: Tensor, size: torch.Size) -> Tensor:
    """Blocks side by side, as many as cover an image: bool of shape (1, N, *size)."""
    times = [-(-extent // step) for extent, step in zip(size, owned.shape[1:], strict=True)]
    return owned.repeat(1, *times)[(None, slice(None), *map(slice, size))]


def _spread(images: Tensor, block: torch.Size) -> Tensor:
    """Sum over neighbours, under a triangle along each axis that ends at the next block's voxel."""
    # Shifted sums: autocast leaves their precision alone.
    for axis, step in enumerate(block, start=2):
        reach, extent = step - 1, images.shape[axis]
        padded = functional.pad(images, [0, 0] * (images.ndim - 1 - axis) + [reach, reach])
        images = sum((1 - abs(shift) / step) * padded.narrow(axis, reach + shift, extent) for shift in range(-reach, reach + 1))
    return images
