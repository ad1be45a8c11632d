"""The whole model: the leader fuses, the follower segments the fused image."""

from __future__ import annotations

import pydoc
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fuse4seg.networks.fusion import Fused, FusionNetwork
from fuse4seg.networks.window import IntensityWindow


class Seen(NamedTuple):
    """What the model makes of its input before it segments.

    Attributes:
        sources: The modalities in [0, 1], shape (B, N, *S).
        inside: 1 inside the image and 0 in padding and masked background, shape (B, 1, *S).
        fused: The leader's output; its image is 0 outside.
        extra: Channels behind the modalities (a cascade's one-hot labels), shape (B, E, *S).
    """

    sources: Tensor
    inside: Tensor
    fused: Fused
    extra: Tensor


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
        deep_supervision: The follower gives outputs at several resolutions.

    Source: method.md, Eq. 2: Psi(Phi(x, y)).
    """

    def __init__(self, input_channels: int, num_classes: int, *, conv_op: type[nn.Module],
                 strides: Sequence[Sequence[int]], windows: Sequence[Sequence[float]], follower: dict[str, Any],
                 fusion: dict[str, Any] | None = None, deep_supervision: bool = False) -> None:
        super().__init__()
        self.modalities = len(windows)
        if input_channels < self.modalities:
            raise ValueError(f"{input_channels} input channels, but windows for {self.modalities} modalities")
        self.window = IntensityWindow(windows)
        self.fusion = FusionNetwork(self.modalities, conv_op=conv_op, strides=strides, **(fusion or {}))
        self.segmentation = build_follower(follower, channels=1 + input_channels - self.modalities,
                                           classes=num_classes, deep_supervision=deep_supervision)

    @property
    def decoder(self) -> nn.Module:
        """The follower's decoder: nnU-Net switches deep supervision there."""
        return self.segmentation.decoder

    def fuse(self, channels: Tensor, *, want_maps: bool = False) -> Seen:
        """Fuse normalised input.

        Args:
            channels: As nnU-Net preprocesses them, shape (B, input_channels, *S).
            want_maps: Also give the attention maps.
        """
        sources, inside = self.window(channels[:, :self.modalities])
        fused = self.fusion(sources, want_maps=want_maps)
        return Seen(sources, inside, fused._replace(image=fused.image * inside), channels[:, self.modalities:])

    def segment(self, image: Tensor, extra: Tensor) -> Tensor | list[Tensor]:
        """Logits of a fused image (B, 1, *S) and its extra channels (B, E, *S); a list under deep supervision."""
        return self.segmentation(torch.cat([image, extra], dim=1) if extra.shape[1] else image)

    def forward(self, channels: Tensor) -> Tensor | list[Tensor]:
        """Logits (B, num_classes, *S) of normalised input (B, input_channels, *S); a list under deep supervision."""
        seen = self.fuse(channels)
        return self.segment(seen.fused.image, seen.extra)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """nnU-Net's estimate for the follower; the planner adds the leader's."""
        return self.segmentation.compute_conv_feature_map_size(input_size)

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
