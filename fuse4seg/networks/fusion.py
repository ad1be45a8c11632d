"""Fusion network, the leader: any number of modalities to one image in [0, 1], in colour or grey."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.attention import CrossAttention
from fuse4seg.networks.convolution import axes_of
from fuse4seg.networks.decoder import Decoder
from fuse4seg.networks.encoder import DualStreamEncoder
from fuse4seg.networks.gate import Gate
from fuse4seg.networks.presence import checked_presence, fill_absent, maximum_of_present, mean_of_present

#: The low-frequency stream lies this many of the U-Net's strides down (1/8 of the resolution where each is 2).
BASE_LEVEL = 3


class Fused(NamedTuple):
    """What the fusion network gives.

    Attributes:
        image: Fused image in [0, 1], shape (B, C, *S), C 1 (grey) or 3 (red, green, blue).
        shares: Of the N sources and of the tint in each channel, shape (B, C, N + 1, *S).
        low, high: Features of every modality, shapes (B, N, C, *s) and (B, N, c, *t).
        base, detail: Features fused per frequency, before the decoder, shapes (B, C, *s) and (B, c, *t).
        decoded: Features that shares and tint come from, shape (B, c, *t).
        attention: Where the reference looked in every other modality, shape (B, N - 1, *G), 0 for absent ones; None unless
            asked for, and where there is no cross-attention.
    """

    image: Tensor
    shares: Tensor
    low: Tensor
    high: Tensor
    base: Tensor
    detail: Tensor
    decoded: Tensor
    attention: Tensor | None


class FusionNetwork(nn.Module):
    """Shared dual-stream encoder, fusion per frequency, cross-attention, decoder and gate.

    Full resolution is touched by the gate's mixture alone; convolutions run at the U-Net's first stride and below,
    because the sources themselves carry the detail.

    Args:
        modalities: Number of source modalities, at least 1 (with one there is nothing to attend to).
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        strides: The U-Net's strides per stage and axis, the first of them 1: they know the image's anisotropy.
        detail_features: Channels of the high-frequency stream.
        base_features: Channels of the low-frequency stream.
        couplings: Invertible blocks of the high-frequency stream.
        transformers: Lite-Transformer blocks of the low-frequency stream.
        reference: Index of the modality that asks in the cross-attention.
        cross_attention: False leaves the cross-attention out (paper, Table 3).
        colours: Channels of the fused image: 3 for colour, 1 for grey.
        brighter: How strongly the :class:`Gate` prefers the brighter source before training.

    Raises:
        ValueError: ``reference`` is no index of a modality, or there are other than 1 or 3 colours.

    Source: method.md, "The network".
    """

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int],
                 detail_features: int = 16, base_features: int = 32, couplings: int = 1, transformers: int = 2,
                 reference: int = 0, cross_attention: bool = True, colours: int = 3, brighter: float = 0.0) -> None:
        super().__init__()
        if not 0 <= reference < modalities:
            raise ValueError(f"reference must lie in 0..{modalities - 1}, got {reference}")
        axes = axes_of(conv_op)
        per_axis = [[stride] * axes if isinstance(stride, int) else list(stride) for stride in strides]
        detail_stride, *base_strides = per_axis[1:BASE_LEVEL + 1] or [[1] * axes]
        self.modalities, self.reference, self.colours = modalities, reference, colours
        self.detail_features, self.base_features = detail_features, base_features
        self.total_stride = [prod(steps) for steps in zip(detail_stride, *base_strides, strict=True)]
        shape = {"detail_stride": detail_stride, "base_strides": base_strides,
                 "detail_features": detail_features, "base_features": base_features}
        self.encoder = DualStreamEncoder(conv_op, modalities, couplings=couplings, transformers=transformers, **shape)
        self.fuse_low = conv_op(2 * base_features, base_features, 1)
        self.fuse_high = conv_op(2 * detail_features, detail_features, 1)
        attends = cross_attention and modalities > 1
        self.cross_attention = CrossAttention(conv_op, base_features, reference=reference) if attends else None
        self.decoder = Decoder(conv_op, **shape)
        self.gate = Gate(conv_op, detail_features, modalities=modalities, colours=colours, brighter=brighter)
        # Few channels at many places: with the channels of a voxel side by side, a pass takes two thirds of the time.
        self.to(memory_format=torch.channels_last if axes == 2 else torch.channels_last_3d)

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
        """Fuse.

        Args:
            sources: In [0, 1], shape (B, N, *S).
            present: True where a case has a modality, bool of shape (B, N), one at least in each case; None for all. Absent
                ones are left out of everything, whatever stands in their place.
            want_maps: Also give the attention maps.

        Raises:
            ValueError: ``present`` has another type or shape, or a case has no modality.
        """
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
        decoded = self.decoder.features(base, detail)
        image, shares = self.gate(decoded, high, padded, present=present)
        return Fused(image[(..., *size)], shares[(..., *size)], low, high, base, detail, decoded, attention)

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
        self.gate.reset()

