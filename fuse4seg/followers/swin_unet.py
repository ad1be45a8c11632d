"""Swin-Unet: a U-Net of transformers whose attention looks through shifted windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.networks.blocks import PatchEmbed
from monai.networks.nets.swin_unetr import BasicLayer, PatchMerging
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.convolution import ChannelNorm
from fuse4seg.networks.follower import FixedFollower, FollowerKind
from fuse4seg.recipes.recipe import Follower

#: Of Swin-T, in encoder and decoder: channels of the finest level, blocks of a level, heads of each level.
WIDTH, DEPTH, HEADS = 96, 2, (3, 6, 12, 24)
#: Voxels of the image for one token, and tokens of a window, along each axis.
PATCH, WINDOW = 4, 7


@dataclass(frozen=True)
class Settings(Follower):
    """Entries of Swin-Unet: none of its own."""


class SwinLevel(nn.Module):
    """MONAI's Swin Transformer blocks at one resolution.

    Maps smaller than a window are padded to one with zeros: MONAI's smaller windows misread the table of relative
    positions.

    Args:
        channels: Channels in and out.
        heads: Number of heads.

    Source: Liu et al., Swin Transformer, ICCV 2021, Eq. 3 and 4. Without stochastic depth: both levels of a bi-level
    step look at one network.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.blocks = BasicLayer(channels, DEPTH, heads, (WINDOW, WINDOW), [0.0] * DEPTH, qkv_bias=True)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, H, W)."""
        height, width = features.shape[2:]
        padded = functional.pad(features, (0, max(0, WINDOW - width), 0, max(0, WINDOW - height)))
        return self.blocks(padded)[..., :height, :width]


class PatchExpanding(nn.Sequential):
    """More channels by a linear layer, moved into space, and normalised.

    Args:
        channels: Channels in.
        features: Channels out.
        times: How much finer it becomes along each axis.

    Source: Swin-Unet, section 3.5.
    """

    def __init__(self, channels: int, features: int, *, times: int) -> None:
        super().__init__(nn.Conv2d(channels, features * times ** 2, 1, bias=False), nn.PixelShuffle(times),
                         ChannelNorm(features))


class SwinUNet(FixedFollower):
    """Swin-Unet, reimplemented from scratch on MONAI's Swin Transformer blocks; nothing is pre-trained.

    27.2 million parameters. Images of any size: windows are padded.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the output.
        conv_op, strides: As nnU-Net plans them; not used, as the stages are as published.
        deep_supervision: Not used.

    Source: Cao et al., Swin-Unet, ECCV Workshops 2022, section 3.
    """

    def __init__(self, input_channels: int, num_classes: int, *, conv_op: type[nn.Module] = nn.Conv2d,
                 strides: Sequence[Sequence[int]] = (), deep_supervision: bool = False) -> None:
        widths = [WIDTH * 2 ** level for level in range(len(HEADS))]
        super().__init__(multiple=PATCH * 2 ** (len(widths) - 1))
        self.embed = PatchEmbed(PATCH, input_channels, WIDTH, norm_layer=nn.LayerNorm, spatial_dims=2)
        self.down = nn.ModuleList(SwinLevel(width, heads) for width, heads in zip(widths, HEADS, strict=True))
        self.merges = nn.ModuleList(PatchMerging(width, spatial_dims=2) for width in widths[:-1])
        self.norm = ChannelNorm(widths[-1])
        # From the coarsest level to the finest.
        finer = list(zip(widths, HEADS, strict=True))[-2::-1]
        self.expansions = nn.ModuleList(PatchExpanding(2 * width, width, times=2) for width, _ in finer)
        self.joins = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width, _ in finer)
        self.up = nn.ModuleList(SwinLevel(width, heads) for width, heads in finer)
        self.head = nn.Sequential(ChannelNorm(WIDTH), PatchExpanding(WIDTH, WIDTH, times=PATCH),
                                  nn.Conv2d(WIDTH, num_classes, 1, bias=False))

    def segment(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W) of images (B, input_channels, H, W), H and W multiples of 32."""
        features = self.down[0](self.embed(images))
        skips = []
        for merge, level in zip(self.merges, self.down[1:], strict=True):
            skips.append(features)
            features = level(merge(features.movedim(1, -1)).movedim(-1, 1))
        features = self.norm(features)
        for expand, join, level, skip in zip(self.expansions, self.joins, self.up, reversed(skips), strict=True):
            features = level(join(torch.cat([expand(features), skip], dim=1)))
        return self.head(features)


FOLLOWER = FollowerKind(SwinUNet, fixed=True, axes=(2,), deep_supervision=False)
