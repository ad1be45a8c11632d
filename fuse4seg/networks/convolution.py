"""Convolutions for two and three axes alike."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


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
