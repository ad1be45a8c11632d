"""Lite-Transformer block: long-range attention beside a short-range convolution, each on half of the channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fuse4seg.networks.convolution import ChannelNorm, conv_block
from fuse4seg.networks.grid_attention import GridSelfAttention


class LiteTransformerBlock(nn.Module):
    """Pre-norm block: (attention beside convolution), then a feed-forward layer, each with a skip connection.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out, a multiple of 2 * heads.
        heads: Heads of the attention branch.

    Source: method.md, "The network", low-frequency stream (long-short range attention).
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, *, heads: int = 2) -> None:
        super().__init__()
        half = channels // 2
        self.norm = ChannelNorm(channels)
        self.attention = GridSelfAttention(conv_op, half, heads=heads)
        self.convolution = conv_block(conv_op, half, half)
        self.mix = conv_op(channels, channels, 1)
        self.feed_forward = nn.Sequential(ChannelNorm(channels), conv_op(channels, 2 * channels, 1), nn.GELU(),
                                          conv_op(2 * channels, channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        far, near = self.norm(features).chunk(2, dim=1)
        features = features + self.mix(torch.cat([self.attention(far), self.convolution(near)], dim=1))
        return features + self.feed_forward(features)
