"""Dual-stream leaders: modalities taken apart into low and high frequencies, fused in each, and brought together again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.errors import RecipeError
from fuse4seg.networks.attention import CrossAttention, GridSelfAttention
from fuse4seg.networks.convolution import ChannelNorm, conv_block, space_to_depth
from fuse4seg.networks.decoder import Decoder
from fuse4seg.networks.leader import Fused, LeaderNetwork
from fuse4seg.networks.presence import checked_presence, fill_absent, maximum_of_present, mean_of_present
from fuse4seg.recipes.recipe import Leader, entry

#: The low-frequency stream lies this many of the U-Net's strides down (1/8 of the resolution where each is 2).
BASE_LEVEL = 3
#: Of the attention, which share its features.
HEADS = 4


class AffineCoupling(nn.Module):
    r"""Invertible block on a channel split (a, b); the halves change places, so that the next block moves the other.

    .. math:: a' = a + \phi(b), \quad b' = b \odot e^{\tanh \rho(a')} + \eta(a'), \quad (a, b) \mapsto (b', a')

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out, at least 2; a half of them is a, and b has one more where they are odd.

    Source: method.md, "The network", high-frequency stream.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int) -> None:
        super().__init__()
        self.split = channels // 2
        rest = channels - self.split
        self.shift = nn.Sequential(conv_block(conv_op, rest, rest), conv_op(rest, self.split, 1))
        self.scale_and_shift = nn.Sequential(conv_block(conv_op, self.split, self.split),
                                             conv_op(self.split, 2 * rest, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        first, second = features[:, :self.split], features[:, self.split:]
        first = first + self.shift(second)
        raw, offset = self.scale_and_shift(first).chunk(2, dim=1)
        # Bounded, so that neither direction can overflow.
        return torch.cat([second * torch.tanh(raw).exp() + offset, first], dim=1)


class LiteTransformerBlock(nn.Module):
    """Pre-norm block: (attention beside convolution), then a feed-forward layer, each with a skip connection.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out, a multiple of 2 * heads.
        heads: Heads of the attention branch.

    Source: method.md, "The network", low-frequency stream (long-short range attention).
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, *, heads: int = 2) -> None:
        super().__init__()
        half = channels // 2
        self.norm = ChannelNorm(channels)
        self.attention = GridSelfAttention(conv_op, half, heads=heads)
        self.convolution = conv_block(conv_op, half, half)
        self.mix = conv_op(channels, channels, 1)
        self.feed_forward = nn.Sequential(ChannelNorm(channels), conv_op(channels, 2 * channels, 1), nn.GELU(),
                                          conv_op(2 * channels, channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S)."""
        far, near = self.norm(features).chunk(2, dim=1)
        features = features + self.mix(torch.cat([self.attention(far), self.convolution(near)], dim=1))
        return features + self.feed_forward(features)


class DualStreamEncoder(nn.Module):
    """One modality to low-frequency features (coarse) and high-frequency features (fine).

    The stem trades resolution for channels without losing a voxel, so that everything after it is cheap. A learned
    offset per modality tells the shared weights which one they look at.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        modalities: Number of modalities.
        detail_stride: Voxels per feature of the high-frequency stream, per axis.
        base_strides: Further strides down to the low-frequency stream.
        detail_features: Channels of the high-frequency stream, even.
        base_features: Channels of the low-frequency stream, a multiple of 4.
        couplings: Invertible blocks.
        transformers: Lite-Transformer blocks.

    Source: method.md, "The network".
    """

    def __init__(self, conv_op: type[nn.Module], modalities: int, *, detail_stride: Sequence[int],
                 base_strides: Sequence[Sequence[int]], detail_features: int, base_features: int,
                 couplings: int, transformers: int) -> None:
        super().__init__()
        self.detail_stride = tuple(detail_stride)
        self.stem = conv_op(prod(detail_stride), detail_features, 3, padding=1)
        self.modality = nn.Parameter(torch.zeros(modalities, detail_features))
        self.activation = nn.LeakyReLU(0.01)
        # Without the norms at their ends, pre-training at Adam's 2e-3 fell into a constant image for one seed of three.
        self.high = nn.Sequential(*(AffineCoupling(conv_op, detail_features) for _ in range(couplings)),
                                  ChannelNorm(detail_features))
        widths = [detail_features, *[base_features] * max(1, len(base_strides))]
        strides = list(base_strides) or [1]
        self.low = nn.Sequential(*(conv_block(conv_op, before, after, stride=stride) for (before, after), stride
                                   in zip(pairwise(widths), strides, strict=True)),
                                 *(LiteTransformerBlock(conv_op, base_features) for _ in range(transformers)),
                                 ChannelNorm(base_features))

    def forward(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        """Encode all modalities in one pass through the batch axis.

        Args:
            sources: In [0, 1], shape (B, N, *S), each axis a multiple of all strides together.

        Returns:
            Low-frequency features (B, N, C, *s) and high-frequency features (B, N, c, *t).
        """
        batch, modalities = sources.shape[:2]
        features = self.stem(space_to_depth(sources.flatten(0, 1).unsqueeze(1), self.detail_stride))
        offset = self.modality.repeat(batch, 1).view(batch * modalities, -1, *[1] * (features.ndim - 2))
        features = self.activation(features + offset)
        low, high = self.low(features), self.high(features)
        return low.unflatten(0, (batch, modalities)), high.unflatten(0, (batch, modalities))


@dataclass(frozen=True)
class DualStreamSettings(Leader):
    """Entries of both streams.

    Raises:
        RecipeError: The attention's heads cannot share the features.
    """

    cross_attention: bool = entry("one modality asks the others where to look (paper, Eq. 8)", planned=True)
    detail_features: int = entry("channels of the high-frequency stream", least=2, planned=True)
    base_features: int = entry("channels of the low-frequency stream", least=8, planned=True)
    couplings: int = entry("invertible blocks of the high-frequency stream", least=0, below=1000, planned=True)
    transformers: int = entry("Lite-Transformer blocks of the low-frequency stream", least=0, below=1000, planned=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_features % HEADS:
            raise RecipeError("leader.base_features", f"must be a multiple of {HEADS}, got {self.base_features}.")


class DualStreamLeader(LeaderNetwork):
    """Shared dual-stream encoder, fusion per frequency, cross-attention and decoder; a subclass paints the image.

    Full resolution is touched by the painting alone; convolutions run at the U-Net's first stride and below, because the
    sources themselves carry the detail.

    Args:
        modalities, conv_op, strides, reference, colours: As every leader takes them; with one modality there is nothing to
            attend to.
        detail_features: Channels of the high-frequency stream.
        base_features: Channels of the low-frequency stream.
        couplings: Invertible blocks of the high-frequency stream.
        transformers: Lite-Transformer blocks of the low-frequency stream.
        cross_attention: False leaves the cross-attention out (paper, Table 3).

    Source: method.md, "The network".
    """

    takes_apart = True
    rebuilds = True
    has_features = True

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 3, detail_features: int = 16, base_features: int = 32, couplings: int = 1, transformers: int = 2,
                 cross_attention: bool = True) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours)
        axes = self.axes
        per_axis = [[stride] * axes if isinstance(stride, int) else list(stride) for stride in strides]
        detail_stride, *base_strides = per_axis[1:BASE_LEVEL + 1] or [[1] * axes]
        self.detail_features, self.base_features = detail_features, base_features
        self.decoded_features = detail_features
        self.total_stride = [prod(steps) for steps in zip(detail_stride, *base_strides, strict=True)]
        shape = {"detail_stride": detail_stride, "base_strides": base_strides,
                 "detail_features": detail_features, "base_features": base_features}
        self.encoder = DualStreamEncoder(conv_op, modalities, couplings=couplings, transformers=transformers, **shape)
        self.fuse_low = conv_op(2 * base_features, base_features, 1)
        self.fuse_high = conv_op(2 * detail_features, detail_features, 1)
        attends = cross_attention and modalities > 1
        self.cross_attention = CrossAttention(conv_op, base_features, reference=reference) if attends else None
        self.decoder = Decoder(conv_op, **shape)

    @property
    def attends(self) -> bool:
        """Whether there is a cross-attention to be shown."""
        return self.cross_attention is not None

    def decoded(self, base: Tensor, detail: Tensor) -> Tensor:
        """Features (B, c, *t) that the image is painted from, of those fused per frequency, (B, C, *s) and (B, c, *t)."""
        return self.decoder.features(base, detail)

    @abstractmethod
    def paint(self, decoded: Tensor, high: Tensor, sources: Tensor, *, present: Tensor | None,
              ) -> tuple[Tensor, Tensor | None]:
        """The image in [0, 1], shape (B, colours, *S), and what is to be known of it beside, with the same S.

        Args:
            decoded: Features of the decoder, shape (B, c, *t).
            high: High-frequency features of every modality, shape (B, N, c, *t).
            sources: In [0, 1], shape (B, N, *S), 0 where absent, each extent a multiple of ``total_stride``.
            present: True where a case has a modality, bool of shape (B, N); None for all.
        """

    def _pad(self, sources: Tensor) -> Tensor:
        """Repeat the border up to a multiple of the strides."""
        missing = [-extent % stride for extent, stride in zip(sources.shape[2:], self.total_stride, strict=True)]
        padding = [amount for width in reversed(missing) for amount in (0, width)]
        return functional.pad(sources, padding, mode="replicate") if any(missing) else sources

    @staticmethod
    def _over_modalities(features: Tensor, present: Tensor | None) -> Tensor:
        """Mean beside maximum over the modalities: as many as there are, in any order."""
        return torch.cat([mean_of_present(features, present), maximum_of_present(features, present)], dim=1)

    def forward(self, sources: Tensor, *, present: Tensor | None = None, want_maps: bool = False) -> Fused:
        """Fuse; see :class:`LeaderNetwork`."""
        present = checked_presence(present, sources)
        sources = fill_absent(sources, present)
        size = tuple(slice(extent) for extent in sources.shape[2:])
        padded = self._pad(sources)
        low, high = self.encoder(padded)
        base = self.fuse_low(self._over_modalities(low, present))
        detail = self.fuse_high(self._over_modalities(high, present))
        attention = None
        if self.cross_attention is not None:
            context, attention = self.cross_attention(low, present=present, want_maps=want_maps)
            base = base + context
        decoded = self.decoded(base, detail)
        image, beside = self.paint(decoded, high, padded, present=present)
        return Fused(image[(..., *size)], low, high, decoded, attention, None if beside is None else beside[(..., *size)])

    def reconstruct(self, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct every modality from its own features alone (pre-training).

        Args:
            sources: In [0, 1], shape (B, N, *S).

        Returns:
            Reconstructions in [0, 1], shape (B, N, *S), and the features low and high of every modality.
        """
        size = tuple(slice(extent) for extent in sources.shape[2:])
        low, high = self.encoder(self._pad(sources))
        images = self.decoder(low.flatten(0, 1), high.flatten(0, 1))
        return images.squeeze(1).unflatten(0, sources.shape[:2])[(..., *size)], low, high

    def initialise(self) -> None:
        """He initialisation of the convolutions, except where a module starts from a design of its own."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                # In the usual order of memory, so that a seed's weights do not depend on the order they lie in.
                drawn = nn.init.kaiming_normal_(torch.empty(module.weight.shape, device=module.weight.device), a=0.01)
                with torch.no_grad():
                    module.weight.copy_(drawn)
                nn.init.zeros_(module.bias)
