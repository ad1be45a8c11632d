"""CNN-transformer hybrid, the paper's kind of follower: a U-Net with transformer blocks at its bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_convtransp
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.attention import from_tokens, to_tokens
from fuse4seg.networks.convolution import ChannelNorm, axes_of, conv_block
from fuse4seg.networks.follower import FollowerKind, StagedSettings
from fuse4seg.recipes.recipe import entry


@dataclass(frozen=True)
class Settings(StagedSettings):
    """Entries of the hybrid."""

    blocks: int = entry("transformer blocks; the paper's has 12", least=1, below=1000, planned=True)


#: The longest wave is about this many times the shortest.
LONGEST = 10_000.0


def position_code(size: Sequence[int], channels: int, *, device: torch.device | str | None = None) -> Tensor:
    r"""Fixed code of every place.

    Each axis has its own channels: sines, then cosines, of :math:`p \cdot 10000^{-k/K}` for the place p and k = 0 ... K - 1,
    where K = channels // (2 axes). Channels that are left over are 0. So a place has the same code in feature maps of all sizes,
    and the inner product of two codes depends on the distance along each axis alone.

    Args:
        size: Extent of each axis.
        channels: At least two per axis.
        device: Where to make it.

    Returns:
        Shape (channels, *size), float32, in [-1, 1].

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.5, axis by axis.
    """
    axes = len(size)
    waves = channels // (2 * axes)
    rates = LONGEST ** (-torch.arange(waves, device=device) / waves)
    code = torch.zeros(channels, *size, device=device)
    for axis, extent in enumerate(size):
        angles = rates.unsqueeze(1) * torch.arange(extent, device=device)
        along = [extent if other == axis else 1 for other in range(axes)]
        code[2 * waves * axis:2 * waves * (axis + 1)] = torch.cat([angles.sin(), angles.cos()]).unflatten(1, along)
    return code


#: The gate squeezes the channels by this factor.
SQUEEZE = 4


class Adapter(nn.Module):
    r"""Let each case weigh its channels, and tokens that lie beside each other mix.

    .. math:: h = x + g \odot x, \quad g = \tanh(W_2 \, \sigma(W_1 \bar{x})), \qquad y = h + \mathrm{up}(\sigma(\mathrm{down}(h)))

    with the mean :math:`\bar{x}` over space, a strided convolution down and a transposed convolution up. It starts as the
    identity (:math:`W_2` and up are 0).

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out.

    Source: method.md, "The network", follower: a channel gate, then strided convolution and transposed convolution, each with a
    skip connection. Ours: tanh in place of a sigmoid, so that the gate can start closed and still open either way.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int) -> None:
        super().__init__()
        self.axes, self.channels, self.squeezed = axes_of(conv_op), channels, max(1, channels // SQUEEZE)
        self.gate = nn.Sequential(conv_op(channels, self.squeezed, 1), nn.LeakyReLU(0.01, inplace=True),
                                  conv_op(self.squeezed, channels, 1), nn.Tanh())
        self.down = conv_block(conv_op, channels, channels, stride=2)
        self.up = get_matching_convtransp(conv_op)(channels, channels, 2, 2)
        self.reset()

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S), S of any extents."""
        size = tuple(slice(extent) for extent in features.shape[2:])
        mean = features.mean(dim=tuple(range(2, features.ndim)), keepdim=True)
        gated = features + self.gate(mean) * features
        # An odd axis comes back longer by one.
        return gated + self.up(self.down(gated))[(..., *size)]

    def reset(self) -> None:
        """Start as the identity."""
        for layer in (self.gate[2], self.up):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


#: Channels of a head, at least.
HEAD_WIDTH = 64
#: The feed-forward layer widens the channels by this factor.
WIDENING = 4


def heads_for(channels: int) -> int:
    """As many heads of HEAD_WIDTH channels as there can be, but at least one, such that all have equally many."""
    return next(heads for heads in range(max(1, channels // HEAD_WIDTH), 0, -1) if channels % heads == 0)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention over all voxels, adapter, feed-forward layer, each with a skip connection.

    It starts as the identity: the last layer of each branch is 0. (nnU-Net's optimiser has no warm-up.)

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out.

    Source: method.md, "The network", follower: an adapter in every transformer block.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int) -> None:
        super().__init__()
        self.channels, self.heads = channels, heads_for(channels)
        self.norm = ChannelNorm(channels)
        # Without bias: softmax takes no notice of a key's.
        self.query_key_value = conv_op(channels, 3 * channels, 1, bias=False)
        self.mix = conv_op(channels, channels, 1)
        self.adapter = Adapter(conv_op, channels)
        self.feed_forward = nn.Sequential(ChannelNorm(channels), conv_op(channels, WIDENING * channels, 1), nn.GELU(),
                                          conv_op(WIDENING * channels, channels, 1))
        self.reset()

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        tokens = (to_tokens(part, self.heads) for part in self.query_key_value(self.norm(features)).chunk(3, dim=1))
        attended = from_tokens(functional.scaled_dot_product_attention(*tokens), list(features.shape[2:]))
        features = self.adapter(features + self.mix(attended))
        return features + self.feed_forward(features)

    def reset(self) -> None:
        """Start as the identity."""
        self.adapter.reset()
        for layer in (self.mix, self.feed_forward[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


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
        blocks: Transformer blocks; TransUNet has 12, and is meant to be pre-trained.
        deep_supervision: Give the logits of all resolutions; nnU-Net switches it at ``decoder.deep_supervision``.

    Source: method.md, "The network", follower; Chen et al., TransUNet, 2021.
    """

    def __init__(self, input_channels: int, num_classes: int, *, n_stages: int, features_per_stage: Sequence[int],
                 conv_op: type[nn.Module], kernel_sizes: Sequence[Sequence[int]], strides: Sequence[Sequence[int]],
                 n_conv_per_stage: Sequence[int], n_conv_per_stage_decoder: Sequence[int], conv_bias: bool = False,
                 norm_op: type[nn.Module] | None = None, norm_op_kwargs: dict[str, Any] | None = None,
                 dropout_op: type[nn.Module] | None = None, dropout_op_kwargs: dict[str, Any] | None = None,
                 nonlin: type[nn.Module] | None = None, nonlin_kwargs: dict[str, Any] | None = None,
                 blocks: int = 4, deep_supervision: bool = False) -> None:
        super().__init__()
        self.encoder = PlainConvEncoder(input_channels, n_stages, features_per_stage, conv_op, kernel_sizes, strides,
                                        n_conv_per_stage, conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs,
                                        nonlin, nonlin_kwargs, return_skips=True)
        self.transformer = Transformer(conv_op, features_per_stage[-1], blocks=blocks)
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


#: Its convolutions stop where an axis has 8 to 15 voxels left, not 4 to 7: a patch of 224 x 224 becomes TransUNet's 14 x 14
#: tokens at 1/16 of the resolution. The rest is as for the U-Net, whose feature maps nnU-Net counts alike.
FOLLOWER = FollowerKind(network=CNNTransformer, smallest_edge=8)
