"""Dual-stream encoder, shared by all modalities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from fuse4seg.networks.convolution import ChannelNorm, conv_block
from fuse4seg.networks.coupling import AffineCoupling
from fuse4seg.networks.lite_transformer import LiteTransformerBlock
from fuse4seg.networks.rearrange import space_to_depth


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
