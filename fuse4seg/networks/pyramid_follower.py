"""Segmentation by a pyramid transformer and a decoder that climbs its features, as CASCADE and EMCAD do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.follower import FixedFollower
from fuse4seg.networks.pvt import STRIDE, WIDTHS, PyramidTransformer


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
