"""Decoder: features that the fused image is painted from, and an auxiliary head on them, a task signal of the leader's own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.convolution import conv_block, depth_to_space


class Decoder(nn.Module):
    """Bring the low frequencies up, and join the high ones; in pre-training, reconstruct a single modality from them.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        detail_stride, base_strides, detail_features, base_features: As in the encoder.

    Source: method.md, "The network".
    """

    def __init__(self, conv_op: type[nn.Module], *, detail_stride: Sequence[int], base_strides: Sequence[Sequence[int]],
                 detail_features: int, base_features: int) -> None:
        super().__init__()
        self.detail_stride = tuple(detail_stride)
        self.upward = [tuple(stride) for stride in reversed(base_strides)]
        widths = [base_features] * len(self.upward) + [detail_features]
        self.up = nn.ModuleList(conv_block(conv_op, before, after) for before, after in pairwise(widths))
        arriving = detail_features if self.upward else base_features
        self.join = nn.Sequential(conv_block(conv_op, arriving + detail_features, detail_features),
                                  conv_block(conv_op, detail_features, detail_features))
        self.paint = conv_op(detail_features, prod(detail_stride), 1)

    def features(self, low: Tensor, high: Tensor) -> Tensor:
        """Decode.

        Args:
            low: Shape (B, C, *s).
            high: Shape (B, c, *t).

        Returns:
            Shape (B, c, *t).
        """
        for convolution, stride in zip(self.up, self.upward, strict=True):
            low = convolution(functional.interpolate(low, scale_factor=tuple(map(float, stride)), mode="nearest"))
        return self.join(torch.cat([low, high], dim=1))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Reconstruct a modality from its features.

        Returns:
            In [0, 1], shape (B, 1, *S).
        """
        return self.painted(self.features(low, high))

    def painted(self, features: Tensor) -> Tensor:
        """An image in [0, 1], shape (B, 1, *S), of features (B, c, *t)."""
        return torch.sigmoid(depth_to_space(self.paint(features), self.detail_stride))


class AuxiliaryHead(nn.Module):
    """Logits from the features that the fused image is painted from, at their resolution.

    A follower that has not found a class yet sends no gradient that would bring the class out in the fused image. This head
    does, and what it makes the features tell apart, gate and decoder can show.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        features: Channels of the decoder's features.
        classes: Outputs of the segmentation network.

    Source: method.md, "Two stages" (the auxiliary head).
    """

    def __init__(self, conv_op: type[nn.Module], features: int, *, classes: int) -> None:
        super().__init__()
        self.head = nn.Sequential(conv_block(conv_op, features, features), conv_op(features, classes, 1))

    def forward(self, decoded: Tensor) -> Tensor:
        """Logits (B, classes, *t) of features (B, c, *t)."""
        return self.head(decoded)
