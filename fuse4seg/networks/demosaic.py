"""Demosaicing: each modality as an image of its own, from a halftone of them all."""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

#: How often the triangle is applied. Once is bilinear interpolation, which lets much of the common detail through, and that is
#: taken for a difference 1 / h times as large. More often takes from small lesions what differs there.
PASSES = 3
#: The same of a halftone over a descreened image, where little common detail comes through. Once would read more sharply still,
#: but descreening by it takes detail from the image that can be seen, and of four modalities all that is as fine as a block.
PASSES_DESCREENED = 2


def demosaic(image: Tensor, owned: Tensor, *, passes: int = PASSES) -> Tensor:
    """What each modality's own voxels show, smoothed over those of the others.

    A halftone shows modalities at voxels of their own, as a camera's colour filter shows colours. Everywhere stands the mean over
    the own voxels around, which weigh the less the further they are: along each axis by a triangle that ends at the next block's
    voxel, convolved with itself to ``passes`` of them (three, of a block of 2: binomial weights 1, 6, 15, 20, 15, 6, 1).

    Args:
        image: Shape (B, 1, *S), along no axis smaller than a block; a block begins at its first voxel.
        owned: Which voxels of a block belong to which modality, each to one at least, bool of shape (N, *block).
        passes: Triangles, 1 (bilinear interpolation) or more.

    Returns:
        Shape (B, N, *S).
    """
    return _smoothed(image, tiled(owned, image), owned.shape[1:], passes)


def separate(image: Tensor, owned: Tensor, *, strength: float, brighter: Tensor, sum_share: float = 0.0,
             passes: int = PASSES) -> Tensor:
    r"""The modalities that a halftone was made of, if the gate's scores are 0 and the painted image has no share.

    A voxel of modality i shows :math:`h M_i + (1 - h) B`, with
    :math:`B = (1 - s) \sum_j \mathrm{softmax}(\beta M)_j M_j + s \min(1, 2 \bar M)`, so demosaiced images D lie
    :math:`h (M_i - \bar M)` from their mean. These differences d are smooth, as a camera takes colour to be. All detail that is
    left once the owner's is taken out of every voxel is common: :math:`h \bar M + (1 - h) B`, whose mixture lies
    :math:`\sum_j \mathrm{softmax}(\beta d)_j d_j` above the mean. Fine structure that modalities share is so taken neither for a
    difference nor from any of them.

    Args:
        image: Shape (B, 1, *S); a block begins at its first voxel.
        owned: As in :func:`demosaic`, each voxel with one owner.
        strength: h, above 0, at most 1.
        brighter: beta, a scalar.
        sum_share: s, from 0 to below 1.
        passes: As in :func:`demosaic`.

    Returns:
        M, shape (B, N, *S).
    """
    own = tiled(owned, image)
    apart = _differences(image, own, owned.shape[1:], passes) / strength
    above = ((brighter * apart).softmax(dim=1) * apart).sum(dim=1, keepdim=True)
    common = image - strength * (own * apart).sum(dim=1, keepdim=True)
    of_mixture, of_sum = (1 - strength) * (1 - sum_share), (1 - strength) * sum_share
    without = common - of_mixture * above
    # Twice the mean, of one modality once; cut at 1 where that is less.
    more = min(len(owned), 2) - 1
    mean = torch.maximum(without / (1 + of_sum * more), (without - of_sum) / (1 - of_sum))
    return apart + mean


def descreened(image: Tensor, owned: Tensor, *, passes: int) -> Tensor:
    """The image without what :func:`demosaic` would take for differences between modalities.

    Every voxel loses what its owner's voxels around show above the mean over all owners: of what is smooth, nothing is left;
    of what is as fine as the smoothing, a quarter at most. (Descreening takes the pattern out of a print that has been scanned.)

    Args:
        image: Shape (B, 1, *S); a block begins at its first voxel.
        owned: As in :func:`demosaic`, each voxel with one owner.
        passes: With which it will be demosaiced.

    Returns:
        Shape (B, 1, *S).
    """
    own = tiled(owned, image)
    return image - (own * _differences(image, own, owned.shape[1:], passes)).sum(dim=1, keepdim=True)


def tiled(block: Tensor, image: Tensor) -> Tensor:
    """Blocks side by side, as many as cover an image.

    Args:
        block: Shape (N, *block).
        image: Whose size and type they shall have, shape (B, C, *S).

    Returns:
        Shape (1, N, *S).
    """
    size = image.shape[2:]
    times = [-(-extent // step) for extent, step in zip(size, block.shape[1:], strict=True)]
    return block.repeat(1, *times)[(None, slice(None), *map(slice, size))].to(image.dtype)


def _differences(image: Tensor, own: Tensor, block: torch.Size, passes: int) -> Tensor:
    """What each modality's own voxels show above the mean over all modalities."""
    shown = _smoothed(image, own, block, passes)
    return shown - shown.mean(dim=1, keepdim=True)


def _smoothed(image: Tensor, own: Tensor, block: torch.Size, passes: int) -> Tensor:
    """Weighted mean over the voxels where ``own`` is 1."""
    return _spread(image * own, block, passes) / _spread(own, block, passes)


def _spread(images: Tensor, block: torch.Size, passes: int) -> Tensor:
    """Weighted sum over neighbours."""
    # Shifted sums: autocast leaves their precision alone.
    for axis, step in enumerate(block, start=2):
        weights, extent = _weights(step, passes), images.shape[axis]
        reach = len(weights) // 2
        padded = functional.pad(images, [0, 0] * (images.ndim - 1 - axis) + [reach, reach])
        images = sum(weight * padded.narrow(axis, shift, extent) for shift, weight in enumerate(weights))
    return images


def _weights(step: int, passes: int) -> list[float]:
    """Of neighbours along an axis, the voxel itself in the middle."""
    triangle = (step - np.abs(np.arange(1 - step, step))) / step**2
    return reduce(np.convolve, [triangle] * passes).tolist()
