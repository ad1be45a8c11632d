"""Attention from every voxel to a fixed coarse grid: cost grows with the number of voxels, not with its square."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

#: Longest side of the key grid by number of axes: 64 keys in 2D as in 3D.
GRID_SIDE = {2: 8, 3: 4}


def pool_to_grid(features: Tensor) -> Tensor:
    """Average features on the key grid; axes that are shorter than the grid stay as they are.

    Args:
        features: Shape (B, C, *S), S of two or three axes.

    Returns:
        Shape (B, C, *G), every axis of G at most GRID_SIDE.
    """
    axes = features.ndim - 2
    size = [min(extent, GRID_SIDE[axes]) for extent in features.shape[2:]]
    pool = functional.adaptive_avg_pool2d if axes == 2 else functional.adaptive_avg_pool3d
    return pool(features, size)


def to_tokens(features: Tensor, heads: int) -> Tensor:
    """Shape (B, C, *S) to (B, heads, voxels, C / heads)."""
    return features.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def from_tokens(tokens: Tensor, size: list[int]) -> Tensor:
    """Undo :func:`to_tokens` for the spatial ``size``."""
    return tokens.transpose(2, 3).flatten(1, 2).unflatten(2, size)


class GridSelfAttention(nn.Module):
    """Multi-head self-attention whose keys and values are pooled to a fixed grid.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out, a multiple of ``heads``.
        heads: Number of heads.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = conv_op(channels, channels, 1)
        self.key_value = conv_op(channels, 2 * channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        key, value = self.key_value(pool_to_grid(features)).chunk(2, dim=1)
        tokens = functional.scaled_dot_product_attention(*(to_tokens(t, self.heads)
                                                           for t in (self.query(features), key, value)))
        return from_tokens(tokens, list(features.shape[2:]))
