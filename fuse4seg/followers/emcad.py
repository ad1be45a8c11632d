"""EMCAD: an efficient multi-scale convolutional attention decoder on PVTv2-b2."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fuse4seg.networks.convolutional_attention import AttentionGate, ChannelAttention, SpatialAttention
from fuse4seg.networks.follower import FollowerKind
from fuse4seg.networks.pyramid_follower import PyramidFollower
from fuse4seg.recipes.recipe import Follower

#: Widths of the kernels that look side by side.
KERNELS = (1, 3, 5)
#: They look at this many times the channels.
EXPANSION = 2
#: Width of the gates' kernels.
GATE_KERNEL = 3


@dataclass(frozen=True)
class Settings(Follower):
    """Entries of EMCAD: none of its own."""


def _depth_wise(channels: int, kernel: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
                         nn.BatchNorm2d(channels), activation)


class MultiScaleBlock(nn.Module):
    """Inverted bottleneck whose depth-wise convolutions have several widths, whose outputs are summed.

    Args:
        channels: Channels in and out.

    Source: EMCAD, Eq. 4 to 6 (MSCB, MSDC), and the skip connection of the authors' code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = EXPANSION * channels
        self.widen = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.scales = nn.ModuleList(_depth_wise(wide, kernel, nn.ReLU6()) for kernel in KERNELS)
        self.narrow = nn.Sequential(nn.ChannelShuffle(channels), nn.Conv2d(wide, channels, 1, bias=False),
                                    nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, H, W)."""
        wide = self.widen(features)
        return features + self.narrow(sum(scale(wide) for scale in self.scales))


class Emcad(PyramidFollower):
    """PVTv2-b2 and the EMCAD decoder, reimplemented from scratch; nothing is pre-trained. 26.8 million parameters.

    Source: Rahman, Munir and Marculescu, EMCAD, CVPR 2024, section 3.1. Published are the MUTATION loss, over the
    sums of all subsets of heads, and the finest head's prediction; here the sum of all heads is taught, and predicts.
    In the authors' code the levels share one spatial attention.
    """

    def up(self, coarse: int, fine: int) -> nn.Module:
        """Nearest neighbours, then a depth-wise and a 1 x 1 convolution (EUCB)."""
        return nn.Sequential(nn.Upsample(scale_factor=2), _depth_wise(coarse, 3, nn.ReLU()), nn.Conv2d(coarse, fine, 1))

    def gate(self, channels: int) -> nn.Module:
        """Pairs of channels each get one between."""
        return AttentionGate(channels, channels // 2, kernel=GATE_KERNEL, groups=channels // 2)

    def refinement(self, channels: int, features: int) -> nn.Module:
        """Multi-scale convolutional attention module (Eq. 3, MSCAM)."""
        return nn.Sequential(ChannelAttention(channels), SpatialAttention(), MultiScaleBlock(channels))

    def joined(self, channels: int) -> int:
        """Their sum."""
        return channels

    def join(self, features: Tensor, gated: Tensor) -> Tensor:
        """Their sum."""
        return features + gated


FOLLOWER = FollowerKind(Emcad, fixed=True, axes=(2,), deep_supervision=False)
