"""CASCADE: a cascaded attention decoder on the pyramid transformer PVTv2-b2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets.attentionunet import ConvBlock
from torch import Tensor, nn

from fuse4seg.networks.convolutional_attention import AttentionGate, ChannelAttention, SpatialAttention
from fuse4seg.networks.follower import FollowerKind
from fuse4seg.networks.pyramid_follower import WIDTHS, PyramidFollower
from fuse4seg.recipes.recipe import Follower


@dataclass(frozen=True)
class Settings(Follower):
    """Entries of CASCADE: none of its own."""


class Cascade(PyramidFollower):
    """PVTv2-b2 and the CASCADE decoder, reimplemented from scratch; nothing is pre-trained.

    Gated skip connections are put beside the decoder's features, and every level attends to channels and to places
    before its two convolutions. 35.3 million parameters.

    Source: Rahman and Marculescu, Medical image segmentation via cascaded attention decoding, WACV 2023, section 3 (AG,
    CAM). Widths of the gates and the 1 x 1 convolution before the coarsest level are those of the authors' code, where
    the levels also share one spatial attention. Only the sum of the heads is taught; published are losses of the single
    heads, too.
    """

    def up(self, coarse: int, fine: int) -> nn.Module:
        """Nearest neighbours, then a convolution."""
        return nn.Sequential(nn.Upsample(scale_factor=2), Convolution(2, coarse, fine, act="relu", norm="batch"))

    def gate(self, channels: int) -> nn.Module:
        """As narrow between as the next finer level is wide; half as wide as the finest level there."""
        finer = [width for width in WIDTHS if width < channels]
        return AttentionGate(channels, finer[-1] if finer else channels // 2)

    def refinement(self, channels: int, features: int) -> nn.Module:
        """Convolutional attention module; at the coarsest level, which joins nothing, behind a 1 x 1 convolution."""
        module = nn.Sequential(ChannelAttention(channels), SpatialAttention(), ConvBlock(2, channels, features))
        return nn.Sequential(nn.Conv2d(channels, channels, 1), *module) if channels == features else module

    def joined(self, channels: int) -> int:
        """Both beside each other."""
        return 2 * channels

    def join(self, features: Tensor, gated: Tensor) -> Tensor:
        """Both beside each other."""
        return torch.cat([gated, features], dim=1)


FOLLOWER = FollowerKind(Cascade, fixed=True, axes=(2,), deep_supervision=False)
