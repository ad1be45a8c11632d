"""CNN-transformer hybrid, the paper's kind of follower: a U-Net with transformer blocks at its bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from fuse4seg.networks.convolution import ChannelNorm
from fuse4seg.networks.position import position_code
from fuse4seg.networks.transformer_block import TransformerBlock


class Transformer(nn.Module):
    """Transformer blocks on a feature map whose voxels are the tokens; position is added first, normalisation comes last.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out, at least two per axis.
        blocks: Number of transformer blocks.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, *, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(TransformerBlock(conv_op, channels) for _ in range(blocks)))
        self.norm = ChannelNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        position = position_code(features.shape[2:], features.shape[1], device=features.device)
        return self.norm(self.blocks(features + position.to(features.dtype)))


class CNNTransformer(nn.Module):
    """Encoder and decoder of nnU-Net's U-Net, and a transformer on the coarsest features between them.

    Takes what nnU-Net plans for its U-Net, and input of any size that the strides divide. Nothing is pre-trained.

    Args:
        input_channels: Channels of the input.
        num_classes: Channels of the output.
        n_stages: Resolutions, at least 2.
        features_per_stage: Channels of each stage.
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        kernel_sizes: Of each stage and axis.
        strides: Of each stage and axis.
        n_conv_per_stage: Convolutions of each stage of the encoder.
        n_conv_per_stage_decoder: Convolutions of each stage of the decoder.
        conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs: Of the convolution blocks.
        transformer_blocks: Transformer blocks; TransUNet has 12, and is meant to be pre-trained.
        deep_supervision: Give the logits of all resolutions; nnU-Net switches it at ``decoder.deep_supervision``.

    Source: method.md, "The network", follower; Chen et al., TransUNet, 2021.
    """

    def __init__(self, input_channels: int, num_classes: int, *, n_stages: int, features_per_stage: Sequence[int],
                 conv_op: type[nn.Module], kernel_sizes: Sequence[Sequence[int]], strides: Sequence[Sequence[int]],
                 n_conv_per_stage: Sequence[int], n_conv_per_stage_decoder: Sequence[int], conv_bias: bool = False,
                 norm_op: type[nn.Module] | None = None, norm_op_kwargs: dict[str, Any] | None = None,
                 dropout_op: type[nn.Module] | None = None, dropout_op_kwargs: dict[str, Any] | None = None,
                 nonlin: type[nn.Module] | None = None, nonlin_kwargs: dict[str, Any] | None = None,
                 transformer_blocks: int = 4, deep_supervision: bool = False) -> None:
        super().__init__()
        self.encoder = PlainConvEncoder(input_channels, n_stages, features_per_stage, conv_op, kernel_sizes, strides,
                                        n_conv_per_stage, conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs,
                                        nonlin, nonlin_kwargs, return_skips=True)
        self.transformer = Transformer(conv_op, features_per_stage[-1], blocks=transformer_blocks)
        self.decoder = UNetDecoder(self.encoder, num_classes, n_conv_per_stage_decoder, deep_supervision)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Logits (B, num_classes, *S) of images (B, input_channels, *S); under deep supervision a list, the finest first."""
        *skips, coarsest = self.encoder(images)
        return self.decoder([*skips, self.transformer(coarsest)])

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """nnU-Net applies this to every module: He initialisation, and transformer blocks start as the identity."""
        InitWeights_He(1e-2)(module)
        if isinstance(module, TransformerBlock):
            module.reset()
