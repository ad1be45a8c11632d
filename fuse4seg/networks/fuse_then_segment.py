"""The whole model: the leader fuses, the follower segments the fused image."""

from __future__ import annotations

import pydoc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fuse4seg.networks.fusion import Fused, FusionNetwork
from fuse4seg.networks.mirror import mirrored
from fuse4seg.networks.presence import checked_presence, fill_absent
from fuse4seg.networks.window import IntensityWindow

#: What the follower can see: the fused image alone; the fused image and all sources; the features fused per frequency,
#: without reconstructing an image from them (paper, Table 3: "w/o Reconstruction Decoder").
FOLLOWER_INPUTS = ("fused", "fused+sources", "embedding")


def follower_channels(fusion: FusionNetwork, follower_input: str) -> int:
    """Channels that the follower sees of what ``fusion`` gives."""
    return {"fused": 1, "fused+sources": 1 + fusion.modalities,
            "embedding": fusion.base_features + fusion.detail_features}[follower_input]


class Seen(NamedTuple):
    """What the model makes of its input before it segments.

    Attributes:
        sources: The modalities in [0, 1], shape (B, N, *S); 0 where absent.
        inside: 1 inside the image and 0 in padding and masked background, shape (B, 1, *S).
        fused: The leader's output; its image is 0 outside.
        extra: Channels behind the modalities (a cascade's one-hot labels), shape (B, E, *S).
        present: True where a case has a modality, bool of shape (B, N); None where all have all.
    """

    sources: Tensor
    inside: Tensor
    fused: Fused
    extra: Tensor
    present: Tensor | None = None


class FuseThenSegment(nn.Module):
    """Leader in ``.fusion``, follower in ``.segmentation``; nnU-Net builds it from the plans.

    Args:
        input_channels: Modalities and, behind them, a cascade's one-hot channels.
        num_classes: Outputs of the segmentation network.
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        strides: The follower's strides, which the leader shares.
        windows: (low, high) per modality in normalised intensities.
        follower: The segmentation network as nnU-Net plans it: network_class_name, arch_kwargs, _kw_requires_import.
        fusion: Further arguments of :class:`FusionNetwork`.
        follower_input: What the follower sees (FOLLOWER_INPUTS).
        demosaic: A follower that sees the fused image alone reads it by its halftone, if it has one: an image per modality.
        deep_supervision: The follower gives outputs at several resolutions.

    Source: method.md, Eq. 2: Psi(Phi(x, y)).
    """

    def __init__(self, input_channels: int, num_classes: int, *, conv_op: type[nn.Module],
                 strides: Sequence[Sequence[int]], windows: Sequence[Sequence[float]], follower: dict[str, Any],
                 fusion: dict[str, Any] | None = None, follower_input: str = "fused", demosaic: bool = False,
                 deep_supervision: bool = False) -> None:
        super().__init__()
        self.modalities = len(windows)
        if input_channels < self.modalities:
            raise ValueError(f"{input_channels} input channels, but windows for {self.modalities} modalities")
        self.window = IntensityWindow(windows)
        self.fusion = FusionNetwork(self.modalities, conv_op=conv_op, strides=strides, **(fusion or {}))
        self.follower_input = follower_input
        self.demosaic = demosaic and follower_input == "fused" and self.fusion.halftone is not None
        #: Channels that the follower reads, extra ones left out.
        self.channels_read = self.modalities if self.demosaic else follower_channels(self.fusion, follower_input)
        self.segmentation = build_follower(follower, channels=self.channels_read + input_channels - self.modalities,
                                           classes=num_classes, deep_supervision=deep_supervision)

    @property
    def block(self) -> tuple[int, ...]:
        """Voxels of the leader's blocks along each axis."""
        return self.fusion.gate.detail_stride

    @property
    def reading_grid(self) -> tuple[int, ...]:
        """Voxels along each axis, whose multiples what :meth:`read` takes must begin at."""
        return self.block if self.demosaic else (1,) * len(self.block)

    @property
    def decoder(self) -> nn.Module:
        """The follower's decoder: nnU-Net switches deep supervision there."""
        return self.segmentation.decoder

    def fuse(self, channels: Tensor, *, present: Tensor | None = None, want_maps: bool = False) -> Seen:
        """Fuse normalised input.

        Args:
            channels: As nnU-Net preprocesses them, shape (B, input_channels, *S).
            present: True where a case has a modality, bool of shape (B, N), one at least in each case; None for all. What
                stands in the channel of an absent one does not matter.
            want_maps: Also give the attention maps.

        Raises:
            ValueError: There are fewer channels than modalities, ``present`` has another type or shape, or a case has no
                modality.
        """
        if channels.shape[1] < self.modalities:
            raise ValueError(f"{channels.shape[1]} channels, but the model fuses {self.modalities} modalities: "
                             f"give a missing one any content, and say so with present")
        modalities = channels[:, :self.modalities]
        present = checked_presence(present, modalities)
        # Before the window, so that the image's extent is that of the modalities that are there; a 0 does not stay one.
        sources, inside = self.window(fill_absent(modalities, present))
        sources = fill_absent(sources, present)
        fused = self.fusion(sources, present=present, want_maps=want_maps)
        return Seen(sources, inside, fused._replace(image=fused.image * inside), channels[:, self.modalities:], present)

    def shown(self, seen: Seen) -> Tensor:
        """What the follower sees, without extra channels: shape (B, K, *S), 0 outside the image."""
        if self.follower_input == "fused":
            return seen.fused.image
        if self.follower_input == "fused+sources":
            return torch.cat([seen.fused.image, seen.sources], dim=1)
        whole = [functional.interpolate(features, size=seen.inside.shape[2:], mode="nearest")
                 for features in (seen.fused.base, seen.fused.detail)]
        return torch.cat(whole, dim=1) * seen.inside

    def read(self, channels: Tensor) -> Tensor:
        """What enters the follower of what it is shown: where it demosaics, what the fused image shows of each modality.

        That is without what its voxels show of the others, and in the units of normalised intensities: so the follower starts
        from what nnU-Net's starts from. What the leader adds to the image of its own accord comes on top of all of them.

        Args:
            channels: Of :meth:`shown`, extra channels behind them, shape (B, K, *S); S begins on :attr:`reading_grid`.

        Returns:
            Shape (B, ``channels_read`` + extra channels, *S); without demosaicing, ``channels`` themselves.
        """
        if not self.demosaic:
            return channels
        return torch.cat([self.window.undo(self.fusion.read(channels[:, :1])), channels[:, 1:]], dim=1)

    def modalities_read(self, seen: Seen) -> Tensor | None:
        """What the follower reads of each modality, in the units of the sources, shape (B, N, *S), 0 outside the image.

        None where it reads none, or modalities share voxels, so that none is read without the others.
        """
        if not (self.demosaic and self.fusion.halftone.separates):
            return None
        return self.fusion.read(seen.fused.image) * seen.inside

    def segment(self, seen: Seen, *, weights: Mapping[str, Tensor] | None = None,
                flips: Tensor | None = None) -> Tensor | list[Tensor]:
        """Logits of what :meth:`fuse` gave; a list under deep supervision.

        Args:
            seen: From :meth:`fuse`.
            weights: Parameters by their names in the follower, in place of its own.
            flips: The follower sees a sample, and answers, mirrored along the axes where this is True, bool of shape
                (B, axes); None mirrors nothing.
        """
        shown = self.shown(seen)
        channels = torch.cat([shown, seen.extra], dim=1) if seen.extra.shape[1] else shown
        # Read first: mirrored, blocks would show other modalities.
        channels = self.read(channels)
        channels = channels if flips is None else mirrored(channels, flips)
        # nnU-Net's U-Net holds its encoder twice. Tying would put the weights in along both ways and leave them there.
        return functional_call(self.segmentation, dict(weights or {}), (channels,), tie_weights=False)

    def forward(self, channels: Tensor, *, present: Tensor | None = None) -> Tensor | list[Tensor]:
        """Logits (B, num_classes, *S) of normalised input (B, input_channels, *S); a list under deep supervision.

        ``present`` is as in :meth:`fuse`.
        """
        return self.segment(self.fuse(channels, present=present))

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """nnU-Net applies this to every module; leader and follower initialise themselves, once, from the top."""
        if isinstance(module, FuseThenSegment):
            module.fusion.initialise()
            follower_initialize = getattr(module.segmentation, "initialize", None)
            if follower_initialize is not None:
                module.segmentation.apply(follower_initialize)


def build_follower(architecture: dict[str, Any], *, channels: int, classes: int, deep_supervision: bool) -> nn.Module:
    """Build a segmentation network from its part of the plans.

    Raises:
        ValueError: The plans name a class that cannot be found.
    """
    arguments = dict(architecture["arch_kwargs"])
    for name in architecture["_kw_requires_import"]:
        if arguments[name] is not None:
            arguments[name] = pydoc.locate(arguments[name])
    network_class = pydoc.locate(architecture["network_class_name"])
    if network_class is None:
        raise ValueError(f"follower {architecture['network_class_name']} cannot be imported")
    return network_class(input_channels=channels, num_classes=classes, deep_supervision=deep_supervision, **arguments)
