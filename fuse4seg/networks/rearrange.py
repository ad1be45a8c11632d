"""Exchange resolution for channels and back, for any number of axes and any factor per axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import prod

from torch import Tensor


def space_to_depth(images: Tensor, factors: Sequence[int]) -> Tensor:
    """Move blocks of ``factors`` voxels into channels; nothing is lost.

    Args:
        images: Shape (B, C, *S), each axis of S a multiple of its factor.
        factors: One per axis of S.

    Returns:
        Shape (B, C * prod(factors), *(S / factors)).
    """
    batch, channels, *size = images.shape
    axes = len(size)
    split = list(chain.from_iterable((extent // factor, factor) for extent, factor in zip(size, factors, strict=True)))
    blocks = images.reshape(batch, channels, *split)
    coarse, fine = [2 + 2 * axis for axis in range(axes)], [3 + 2 * axis for axis in range(axes)]
    coarse_size = [extent // factor for extent, factor in zip(size, factors, strict=True)]
    return blocks.permute(0, 1, *fine, *coarse).reshape(batch, channels * prod(factors), *coarse_size)


def depth_to_space(features: Tensor, factors: Sequence[int]) -> Tensor:
    """Undo :func:`space_to_depth`.

    Args:
        features: Shape (B, C * prod(factors), *S).
        factors: One per axis of S.

    Returns:
        Shape (B, C, *(S * factors)).
    """
    batch, depth, *size = features.shape
    axes = len(size)
    blocks = features.reshape(batch, depth // prod(factors), *factors, *size)
    order = chain.from_iterable((2 + axes + axis, 2 + axis) for axis in range(axes))
    fine_size = [extent * factor for extent, factor in zip(size, factors, strict=True)]
    return blocks.permute(0, 1, *order).reshape(batch, -1, *fine_size)
