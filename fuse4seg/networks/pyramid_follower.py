"""Segmentation by a pyramid transformer and a decoder that climbs its features, as CASCADE and EMCAD do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.attention import from_tokens, to_tokens
from fuse4seg.networks.convolution import ChannelNorm
from fuse4seg.networks.follower import FixedFollower

#: Of b2, stage by stage: channels, blocks, heads, how far keys are reduced, how far the feed-forward layer widens.
WIDTHS, DEPTHS, HEADS = (64, 128, 320, 512), (3, 4, 6, 3), (1, 2, 5, 8)
REDUCTIONS, WIDENINGS = (8, 4, 2, 1), (8, 8, 4, 4)
#: Voxels of the image for one of the coarsest features: extents must be multiples of it.
STRIDE = 32
#: Of its layer normalisations, as in the authors' code.
EPSILON = 1e-6


def _norm(channels: int) -> ChannelNorm:
    return ChannelNorm(channels, eps=EPSILON)


class ReducedAttention(nn.Module):
    """Multi-head self-attention whose keys and values are those of a coarser map.

    Args:
        channels: Channels in and out, a multiple of ``heads``.
        heads: Number of heads.
        reduction: Voxels of the map for one of the coarser map, along each axis; 1 leaves it as it is.

    Source: Wang et al., Pyramid Vision Transformer, ICCV 2021, Eq. 1 to 4 (spatial-reduction attention).
    """

    def __init__(self, channels: int, *, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Conv2d(channels, channels, 1)
        self.reduce = nn.Identity() if reduction == 1 else nn.Sequential(
            nn.Conv2d(channels, channels, reduction, stride=reduction), _norm(channels))
        self.key_value = nn.Conv2d(channels, 2 * channels, 1)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, H, W), H and W multiples of the reduction."""
        key, value = self.key_value(self.reduce(features)).chunk(2, dim=1)
        tokens = functional.scaled_dot_product_attention(*(to_tokens(part, self.heads)
                                                           for part in (self.query(features), key, value)))
        return self.mix(from_tokens(tokens, list(features.shape[2:])))


class PyramidBlock(nn.Module):
    """Pre-norm attention and feed-forward layer, each with a skip connection.

    The feed-forward layer has a depth-wise 3 x 3 convolution, whose padding with zeros is all that tells places apart.

    Args:
        channels, heads, reduction: As :class:`ReducedAttention` takes them.
        widening: The feed-forward layer widens the channels by this factor.

    Source: Wang et al., PVT v2, Computational Visual Media 2022, section 3.4 (convolutional feed-forward).
    Without stochastic depth: both levels of a bi-level step look at one network.
    """

    def __init__(self, channels: int, *, heads: int, reduction: int, widening: int) -> None:
        super().__init__()
        wide = widening * channels
        self.attention = nn.Sequential(_norm(channels), ReducedAttention(channels, heads=heads, reduction=reduction))
        self.feed_forward = nn.Sequential(_norm(channels), nn.Conv2d(channels, wide, 1),
                                          nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.GELU(),
                                          nn.Conv2d(wide, channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, H, W)."""
        features = features + self.attention(features)
        return features + self.feed_forward(features)


class PyramidTransformer(nn.Module):
    """PVTv2-b2 without its classifier, reimplemented from scratch; nothing is pre-trained, weights start as PyTorch's.

    Args:
        input_channels: Channels of the image.

    Source: Wang et al., PVT v2, Computational Visual Media 2022, section 3.3 (overlapping patches: 7 x 7 every 4
    voxels, then 3 x 3 every 2) and Table 1, column b2.
    """

    def __init__(self, input_channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        before, kernel, stride = input_channels, 7, 4
        for width, depth, heads, reduction, widening in zip(WIDTHS, DEPTHS, HEADS, REDUCTIONS, WIDENINGS, strict=True):
            patches = nn.Conv2d(before, width, kernel, stride=stride, padding=kernel // 2)
            blocks = (PyramidBlock(width, heads=heads, reduction=reduction, widening=widening) for _ in range(depth))
            self.stages.append(nn.Sequential(patches, _norm(width), *blocks, _norm(width)))
            before, kernel, stride = width, 3, 2

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features at 1/4, 1/8, 1/16 and 1/32 of the resolution, (B, WIDTHS[i], h, w).

        Args:
            images: Shape (B, input_channels, H, W), H and W multiples of STRIDE.
        """
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return features


class PyramidFollower(FixedFollower):
    """PVTv2-b2 and a decoder, whose parts a subclass gives; every level has a head.

    The prediction is the sum of the four heads' logits, brought to full size linearly. It alone is taught.

    Args:
        input_channels: Channels of the image; the first layer takes them as they are (published: three, as the encoder
            is pre-trained on photographs).
        num_classes: Channels of the output.
        conv_op, strides: As nnU-Net plans them; not used, as the stages are as published.
        deep_supervision: Not used.

    Source: Rahman and Marculescu, Medical image segmentation via cascaded attention decoding, WACV 2023, section 3
    (additive aggregation of the heads' maps).
    """

    def __init__(self, input_channels: int, num_classes: int, *, conv_op: type[nn.Module] = nn.Conv2d,
                 strides: Sequence[Sequence[int]] = (), deep_supervision: bool = False) -> None:
        super().__init__(multiple=STRIDE)
        coarse_first = WIDTHS[::-1]
        self.encoder = PyramidTransformer(input_channels)
        self.coarsest = self.refinement(coarse_first[0], coarse_first[0])
        self.ups, self.gates, self.refinements = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for coarse, fine in zip(coarse_first, coarse_first[1:], strict=False):
            self.ups.append(self.up(coarse, fine))
            self.gates.append(self.gate(fine))
            self.refinements.append(self.refinement(self.joined(fine), fine))
        self.heads = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in coarse_first)

    @abstractmethod
    def up(self, coarse: int, fine: int) -> nn.Module:
        """From features of ``coarse`` channels to ``fine`` channels at twice the resolution."""

    @abstractmethod
    def gate(self, channels: int) -> nn.Module:
        """Of the decoder's features and a skip connection, what passes of the latter; all of ``channels``."""

    @abstractmethod
    def refinement(self, channels: int, features: int) -> nn.Module:
        """From joined features of ``channels`` to ``features`` channels."""

    @abstractmethod
    def joined(self, channels: int) -> int:
        """Channels of what :meth:`join` gives."""

    @abstractmethod
    def join(self, features: Tensor, gated: Tensor) -> Tensor:
        """The decoder's features and what passed of the skip connection, together."""

    def segment(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W) of images (B, input_channels, H, W), H and W multiples of STRIDE."""
        *skips, features = self.encoder(images)
        features = self.coarsest(features)
        decoded = [features]
        for up, gate, refine, skip in zip(self.ups, self.gates, self.refinements, reversed(skips), strict=True):
            features = up(features)
            features = refine(self.join(features, gate(features, skip)))
            decoded.append(features)
        return sum(functional.interpolate(head(level), size=images.shape[2:], mode="bilinear")
                   for head, level in zip(self.heads, decoded, strict=True))
