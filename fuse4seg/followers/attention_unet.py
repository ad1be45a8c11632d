"""Attention U-Net: a U-Net whose decoder chooses what it takes of the skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monai.networks.nets import AttentionUnet
from monai.networks.nets.attentionunet import AttentionLayer, ConvBlock
from torch import Tensor, nn

from fuse4seg.networks.convolution import axes_of
from fuse4seg.networks.follower import FixedFollower, FollowerKind
from fuse4seg.recipes.recipe import Follower

#: Channels from the finest level to the coarsest, by number of axes: the paper's in 3D; in 2D U-Net's.
WIDTHS = {2: (64, 128, 256, 512, 1024), 3: (16, 32, 64, 128, 256)}


@dataclass(frozen=True)
class Settings(Follower):
    """Entries of Attention U-Net: none of its own."""


class GatedUNet(FixedFollower):
    """MONAI's Attention U-Net, with the paper's two convolutions behind each gate; MONAI's has one.

    34.9 million parameters in 2D, 6.5 in 3D.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the output.
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        strides: As nnU-Net plans them; not used: every level halves every axis, as published.
        deep_supervision: Not used; the paper has it, MONAI's network does not.

    Source: Oktay et al., Attention U-Net, MIDL 2018, Fig. 1 and Eq. 1 to 4. MONAI goes down by strided and up by
    transposed convolutions, where the paper pools and interpolates, and gates by the features of the same level.
    """

    def __init__(self, input_channels: int, num_classes: int, *, conv_op: type[nn.Module] = nn.Conv2d,
                 strides: Sequence[Sequence[int]] = (), deep_supervision: bool = False) -> None:
        axes = axes_of(conv_op)
        widths = WIDTHS[axes]
        super().__init__(multiple=2 ** (len(widths) - 1))
        self.network = AttentionUnet(axes, input_channels, num_classes, widths, [2] * (len(widths) - 1))
        layers = [module for module in self.network.modules() if isinstance(module, AttentionLayer)]
        for layer, width in zip(layers, widths, strict=False):
            layer.merge = ConvBlock(axes, 2 * width, width)

    def segment(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes, *S) of images (B, input_channels, *S), each extent a multiple of 16."""
        return self.network(images)


FOLLOWER = FollowerKind(GatedUNet, fixed=True, deep_supervision=False)
