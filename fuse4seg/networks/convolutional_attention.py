"""Attention of convolutional networks: which channels, which places, and how much of a skip connection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: The layers of channel attention are this much narrower between.
SQUEEZE = 16
#: Width of spatial attention's kernel.
WIDE = 7


class ChannelAttention(nn.Module):
    r"""Weigh each channel of each case.

    .. math:: x \odot \sigma(W_2 \, \mathrm{relu}(W_1 \bar{x}) + W_2 \, \mathrm{relu}(W_1 \hat{x}))

    with the mean :math:`\bar{x}` and the maximum :math:`\hat{x}` over space.

    Args:
        channels: Channels in and out, at least 16.

    Source: Woo et al., CBAM, ECCV 2018, Eq. 2; CASCADE's CA; EMCAD, Eq. 7 (CAB).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Conv2d(channels, channels // SQUEEZE, 1, bias=False), nn.ReLU(),
                                   nn.Conv2d(channels // SQUEEZE, channels, 1, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, H, W)."""
        mean, largest = features.mean(dim=(2, 3), keepdim=True), features.amax(dim=(2, 3), keepdim=True)
        return features * (self.weigh(mean) + self.weigh(largest)).sigmoid()


class SpatialAttention(nn.Module):
    r"""Weigh each place of each case.

    .. math:: x \odot \sigma(K * [\bar{x}, \hat{x}])

    with the mean :math:`\bar{x}` and the maximum :math:`\hat{x}` over channels, and a kernel K of 7 x 7.

    Source: Woo et al., CBAM, ECCV 2018, Eq. 3; CASCADE's SA; EMCAD, Eq. 8 (SAB).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(2, 1, WIDE, padding=WIDE // 2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, H, W)."""
        seen = torch.cat([features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1)
        return features * self.weigh(seen).sigmoid()


class AttentionGate(nn.Module):
    r"""Let the decoder choose what of a skip connection it takes.

    .. math:: x \odot \sigma(\mathrm{BN}(\psi \, \mathrm{relu}(\mathrm{BN}(W_g * g) + \mathrm{BN}(W_x * x))))

    Args:
        channels: Of the decoder's features g and of the skip connection x.
        between: Channels of the sum.
        kernel: Width of both kernels: 1 as in Attention U-Net and CASCADE, 3 in EMCAD.
        groups: Of both kernels.

    Source: Oktay et al., Attention U-Net, 2018, Eq. 1 and 2; EMCAD, Eq. 1 and 2 (LGAG).
    """

    def __init__(self, channels: int, between: int, *, kernel: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.asked, self.offered = (
            nn.Sequential(nn.Conv2d(channels, between, kernel, padding=kernel // 2, groups=groups),
                          nn.BatchNorm2d(between))
            for _ in range(2))
        self.weigh = nn.Sequential(nn.ReLU(), nn.Conv2d(between, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """What passes of ``skip``; all shapes are (B, C, H, W)."""
        return skip * self.weigh(self.asked(features) + self.offered(skip))
