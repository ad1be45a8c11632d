"""UNet 3+: every level of the decoder reads all scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets.attentionunet import ConvBlock
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.follower import FixedFollower, FollowerKind
from fuse4seg.recipes.recipe import Follower

#: Channels of the encoder, from the finest level to the coarsest.
WIDTHS = (64, 128, 256, 512, 1024)
#: Channels that each scale sends to a level of the decoder.
SENT = 64


@dataclass(frozen=True)
class Settings(Follower):
    """Entries of UNet 3+: none of its own."""


def resampled(features: Tensor, size: Sequence[int]) -> Tensor:
    """Maximum over blocks towards a smaller ``size``, bilinear towards a larger one."""
    if features.shape[2] > size[0]:
        return functional.max_pool2d(features, features.shape[2] // size[0])
    return features if features.shape[2] == size[0] else functional.interpolate(features, size=size, mode="bilinear")


class FullScaleLevel(nn.Module):
    r"""One level of the decoder.

    .. math:: X_{De}^i = H([C(D(X_{En}^k))_{k<i}, C(X_{En}^i), C(U(X_{De}^k))_{k>i}])

    with max pooling D, bilinear interpolation U, and C and H 3 x 3 convolutions, batch normalisation and ReLU.

    Args:
        widths: Channels of each scale, from the finest to the coarsest.

    Source: UNet 3+, Eq. 1.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        everything = len(widths) * SENT
        self.send = nn.ModuleList(Convolution(2, width, SENT, act="relu", norm="batch") for width in widths)
        self.aggregate = Convolution(2, everything, everything, act="relu", norm="batch")

    def forward(self, scales: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Features of spatial ``size`` from one map (B, widths[k], h, w) of each scale."""
        sent = [send(resampled(scale, size)) for send, scale in zip(self.send, scales, strict=True)]
        return self.aggregate(torch.cat(sent, dim=1))


class UNet3Plus(FixedFollower):
    """UNet 3+, reimplemented from scratch. 27.0 million parameters.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the output.
        conv_op, strides: As nnU-Net plans them; not used, as the stages are as published.
        deep_supervision: Not used.

    Source: Huang et al., UNet 3+, ICASSP 2020, section 2.1. Left out: deep supervision, whose side outputs the published
    count does not hold either; the hybrid loss, as all followers are taught by one loss; the classification-guided
    module, which tells slices with the one organ from those without.
    """

    def __init__(self, input_channels: int, num_classes: int, *, conv_op: type[nn.Module] = nn.Conv2d,
                 strides: Sequence[Sequence[int]] = (), deep_supervision: bool = False) -> None:
        super().__init__(multiple=2 ** (len(WIDTHS) - 1))
        self.encoder = nn.ModuleList(ConvBlock(2, before, width)
                                     for before, width in zip((input_channels, *WIDTHS), WIDTHS, strict=False))
        decoded = len(WIDTHS) * SENT
        # From the coarsest level but one; the coarsest scale is always the encoder's.
        self.levels = nn.ModuleList(
            FullScaleLevel((*WIDTHS[:level + 1], *[decoded] * (len(WIDTHS) - 2 - level), WIDTHS[-1]))
            for level in reversed(range(len(WIDTHS) - 1)))
        self.head = nn.Conv2d(decoded, num_classes, 3, padding=1)

    def segment(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W) of images (B, input_channels, H, W), H and W multiples of 16."""
        scales: list[Tensor] = []
        for block in self.encoder:
            images = block(functional.max_pool2d(images, 2) if scales else images)
            scales.append(images)
        for index, level in zip(reversed(range(len(self.levels))), self.levels, strict=True):
            scales[index] = level(scales, scales[index].shape[2:])
        return self.head(scales[0])


FOLLOWER = FollowerKind(UNet3Plus, fixed=True, axes=(2,), deep_supervision=False)
