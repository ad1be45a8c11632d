"""Context path: what a place is depends on more than its surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class ContextPath(nn.Module):
    """A small U-Net below the low-frequency features, as deep as the follower is.

    Normalised over space as nnU-Net's own blocks are, which lets it learn as fast as they do. That holds at prediction, too,
    where the leader looks at windows of exactly the patch's size.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        features: Channels in and out; twice as many below.
        strides: Of the levels below, per axis; none leaves two blocks at the features' own resolution.

    Source: method.md, "What a first sketch measured" (a larger view brings most of the accuracy back).
    """

    def __init__(self, conv_op: type[nn.Module], features: int, *, strides: Sequence[Sequence[int]]) -> None:
        super().__init__()
        widths = [features, *[2 * features] * len(strides)]
        self.first = nn.Sequential(_block(conv_op, features, features), _block(conv_op, features, features))
        self.down = nn.ModuleList(
            nn.Sequential(_block(conv_op, above, below, stride=tuple(stride)), _block(conv_op, below, below))
            for (above, below), stride in zip(pairwise(widths), strides, strict=True))
        self.up = nn.ModuleList(_block(conv_op, below + above, above) for above, below in pairwise(widths))
        self.last = conv_op(features, features, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *s)."""
        levels = [self.first(features)]
        for block in self.down:
            levels.append(block(levels[-1]))
        rising = levels.pop()
        for block in reversed(self.up):
            beside = levels.pop()
            rising = block(torch.cat([functional.interpolate(rising, size=beside.shape[2:], mode="nearest"), beside], dim=1))
        return self.last(rising)


def _block(conv_op: type[nn.Module], channels: int, features: int, *, stride: tuple[int, ...] | int = 1) -> nn.Sequential:
    # One group per channel: instance normalisation, which PyTorch's own module refuses where one voxel is left.
    convolution = conv_op(channels, features, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(features, features), nn.LeakyReLU(0.01, inplace=True))
