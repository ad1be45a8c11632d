"""Convolutions for two and three axes alike, and what exchanges resolution for channels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import prod

from torch import Tensor, nn

#: Of :func:`torch.nn.functional.interpolate`, by the number of axes.
LINEAR = {2: "bilinear", 3: "trilinear"}


def axes_of(conv_op: type[nn.Module]) -> int:
    """Number of spatial axes (2 or 3) of ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.

    Raises:
        ValueError: Any other operator.
    """
    axes = {nn.Conv2d: 2, nn.Conv3d: 3}
    if conv_op not in axes:
        raise ValueError(f"conv_op must be torch.nn.Conv2d or torch.nn.Conv3d, got {conv_op}")
    return axes[conv_op]


def conv_block(conv_op: type[nn.Module], channels: int, features: int, *,
               stride: Sequence[int] | int = 1) -> nn.Sequential:
    """3-wide convolution and LeakyReLU.

    No normalisation over space: its statistics would change with the size of the image, and training sees patches where
    prediction sees whole slices.
    """
    stride = stride if isinstance(stride, int) else tuple(stride)
    return nn.Sequential(conv_op(channels, features, 3, stride=stride, padding=1), nn.LeakyReLU(0.01, inplace=True))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every voxel, shape (B, C, *S)."""

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``."""
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


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
