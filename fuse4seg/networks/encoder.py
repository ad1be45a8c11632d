"""Dual-stream encoder, shared by all modalities: invertible blocks for high frequencies, Lite-Transformer blocks for low ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from fuse4seg.networks.attention import GridSelfAttention
from fuse4seg.networks.convolution import ChannelNorm, conv_block, space_to_depth


class AffineCoupling(nn.Module):
    r"""Invertible block on a channel split (a, b); the halves change places, so that the next block moves the other.

    .. math:: a' = a + \phi(b), \quad b' = b \odot e^{\tanh \rho(a')} + \eta(a'), \quad (a, b) \mapsto (b', a')

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out, at least 2; a half of them is a, and b has one more where they are odd.

    Source: method.md, "The network", high-frequency stream.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int) -> None:
        super().__init__()
        self.split = channels // 2
        rest = channels - self.split
        self.shift = nn.Sequential(conv_block(conv_op, rest, rest), conv_op(rest, self.split, 1))
        self.scale_and_shift = nn.Sequential(conv_block(conv_op, self.split, self.split),
                                             conv_op(self.split, 2 * rest, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        first, second = features[:, :self.split], features[:, self.split:]
        first = first + self.shift(second)
        raw, offset = self.scale_and_shift(first).chunk(2, dim=1)
        # Bounded, so that neither direction can overflow.
        return torch.cat([second * torch.tanh(raw).exp() + offset, first], dim=1)


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


class DualStreamEncoder(nn.Module):
    """One modality to low-frequency features (coarse) and high-frequency features (fine).

    The stem trades resolution for channels without losing a voxel, so that everything after it is cheap. A learned
    offset per modality tells the shared weights which one they look at.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        modalities: Number of modalities.
        detail_stride: Voxels per feature of the high-frequency stream, per axis.
        base_strides: Further strides down to the low-frequency stream.
        detail_features: Channels of the high-frequency stream, even.
        base_features: Channels of the low-frequency stream, a multiple of 4.
        couplings: Invertible blocks.
        transformers: Lite-Transformer blocks.

    Source: method.md, "The network".
    """

    def __init__(self, conv_op: type[nn.Module], modalities: int, *, detail_stride: Sequence[int],
                 base_strides: Sequence[Sequence[int]], detail_features: int, base_features: int,
                 couplings: int, transformers: int) -> None:
        super().__init__()
        self.detail_stride = tuple(detail_stride)
        self.stem = conv_op(prod(detail_stride), detail_features, 3, padding=1)
        self.modality = nn.Parameter(torch.zeros(modalities, detail_features))
        self.activation = nn.LeakyReLU(0.01)
        # Without the norms at their ends, pre-training at Adam's 2e-3 fell into a constant image for one seed of three.
        self.high = nn.Sequential(*(AffineCoupling(conv_op, detail_features) for _ in range(couplings)),
                                  ChannelNorm(detail_features))
        widths = [detail_features, *[base_features] * max(1, len(base_strides))]
        strides = list(base_strides) or [1]
        self.low = nn.Sequential(*(conv_block(conv_op, before, after, stride=stride) for (before, after), stride
                                   in zip(pairwise(widths), strides, strict=True)),
                                 *(LiteTransformerBlock(conv_op, base_features) for _ in range(transformers)),
                                 ChannelNorm(base_features))

    def forward(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        """Encode all modalities in one pass through the batch axis.

        Args:
            sources: In [0, 1], shape (B, N, *S), each axis a multiple of all strides together.

        Returns:
            Low-frequency features (B, N, C, *s) and high-frequency features (B, N, c, *t).
        """
        batch, modalities = sources.shape[:2]
        features = self.stem(space_to_depth(sources.flatten(0, 1).unsqueeze(1), self.detail_stride))
        offset = self.modality.repeat(batch, 1).view(batch * modalities, -1, *[1] * (features.ndim - 2))
        features = self.activation(features + offset)
        low, high = self.low(features), self.high(features)
        return low.unflatten(0, (batch, modalities)), high.unflatten(0, (batch, modalities))
