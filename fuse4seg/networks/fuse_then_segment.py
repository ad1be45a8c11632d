"""The whole model: the leader fuses, the follower segments the fused image and sees nothing else."""

from __future__ import annotations

import pydoc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fuse4seg.colour import WHITE, windowed
from fuse4seg.networks.leader import Fused, LeaderNetwork
from fuse4seg.networks.presence import checked_presence, fill_absent

#: The darkest level inside the image: 0 is outside.
DARKEST = 1


class IntensityWindow(nn.Module):
    r"""Map each channel linearly through its window and clamp; voxels outside the image become 0.

    .. math:: M_i = \min(1, \max(0, (x_i - low_i) / (high_i - low_i)))

    A voxel is outside where every channel is exactly 0: nnU-Net pads with 0 and leaves masked background at 0.

    Args:
        windows: One (low, high) per channel, in units of the normalised intensities, low below high.

    Source: method.md, "The network"; the windows are the fingerprint's percentiles of tissue.
    """

    def __init__(self, windows: Sequence[Sequence[float]]) -> None:
        super().__init__()
        pairs = [tuple(map(float, window)) for window in windows]
        # Checked as numbers: the model is also built on the meta device, where tensors have no values.
        if not pairs or any(len(pair) != 2 or not pair[0] < pair[1] for pair in pairs):
            raise ValueError(f"windows must be pairs (low, high) with low below high, got {windows}")
        bounds = torch.tensor(pairs)
        self.register_buffer("low", bounds[:, 0], persistent=False)
        self.register_buffer("high", bounds[:, 1], persistent=False)

    def forward(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Window ``channels``.

        Args:
            channels: Normalised intensities, shape (B, N, *S).

        Returns:
            Sources in [0, 1], shape (B, N, *S), and the image's extent as 0 or 1, shape (B, 1, *S).
        """
        per_channel = (1, -1) + (1,) * (channels.ndim - 2)
        low, high = self.low.view(per_channel), self.high.view(per_channel)
        inside = (channels != 0).any(dim=1, keepdim=True).to(channels.dtype)
        return windowed(channels, low, high) * inside, inside


def mirrored(images: Tensor, flips: Tensor) -> Tensor:
    """``images`` with every sample flipped along the axes where ``flips`` is True.

    Args:
        images: Shape (B, C, *S).
        flips: Bool of shape (B, axes), the axes in the order of S.
    """
    for axis in range(flips.shape[1]):
        chosen = flips[:, axis].view(-1, *[1] * (images.ndim - 1))
        images = torch.where(chosen, images.flip(axis + 2), images)
    return images


class Seen(NamedTuple):
    """What the model makes of its input before it segments.

    Attributes:
        sources: The modalities in [0, 1], shape (B, N, *S); 0 where absent.
        inside: 1 inside the image and 0 in padding and masked background, shape (B, 1, *S).
        fused: The leader's output; its image has :func:`whole_levels`.
        extra: Channels behind the modalities (a cascade's one-hot labels), shape (B, E, *S).
        present: True where a case has a modality, bool of shape (B, N); None where all have all.
    """

    sources: Tensor
    inside: Tensor
    fused: Fused
    extra: Tensor
    present: Tensor | None = None


def whole_levels(image: Tensor, inside: Tensor) -> Tensor:
    """The image as its exported file holds it: 8 bits a channel. Gradients pass through the rounding.

    Args:
        image: In [0, 1], shape (B, C, *S); of mixed precision too, whose half types hold no 255th part whole.
        inside: 1 inside the image and 0 outside, shape (B, 1, *S).

    Returns:
        Multiples of 1/255 in float32 at least, from DARKEST on inside the image and 0 outside, shape (B, C, *S).
    """
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    levels = (WHITE * image).round().clamp(DARKEST, WHITE) / WHITE
    return (image + (levels - image).detach()) * inside


def as_read(channels: Tensor, *, leader: LeaderNetwork) -> Tensor:
    """What enters the follower: a fused image in [0, 1] as the leader gives it to read; channels behind it as they are."""
    colours = leader.colours
    image = leader.read(channels[:, :colours])
    return torch.cat([image, channels[:, colours:]], dim=1) if channels.shape[1] > colours else image


class FuseThenSegment(nn.Module):
    """Leader in ``.fusion``, follower in ``.segmentation``; nnU-Net builds it from the plans.

    Args:
        input_channels: Modalities and, behind them, a cascade's one-hot channels.
        num_classes: Outputs of the segmentation network.
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        strides: The U-Net's that nnU-Net plans, which tell the leader the image's anisotropy.
        windows: (low, high) per modality in normalised intensities.
        leader, follower: Both networks as nnU-Net writes one into plans: network_class_name, arch_kwargs, _kw_requires_import.
        deep_supervision: The follower gives outputs at several resolutions.

    Source: paper Eq. 2: Psi(Phi(x, y)).
    """

    def __init__(self, input_channels: int, num_classes: int, *, conv_op: type[nn.Module],
                 strides: Sequence[Sequence[int]], windows: Sequence[Sequence[float]], leader: dict[str, Any],
                 follower: dict[str, Any], deep_supervision: bool = False) -> None:
        super().__init__()
        self.modalities = len(windows)
        if input_channels < self.modalities:
            raise ValueError(f"{input_channels} input channels, but windows for {self.modalities} modalities")
        self.window = IntensityWindow(windows)
        self.fusion = build_planned(leader, modalities=self.modalities, conv_op=conv_op, strides=strides)
        extra = input_channels - self.modalities
        self.segmentation = build_planned(follower, input_channels=self.fusion.read_channels + extra,
                                          num_classes=num_classes, deep_supervision=deep_supervision)

    @property
    def decoder(self) -> nn.Module:
        """The follower's decoder: nnU-Net switches deep supervision there."""
        return self.segmentation.decoder

    def sources(self, channels: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The modalities of normalised input as they are fused.

        Args:
            channels: As nnU-Net preprocesses them, shape (B, input_channels, *S).
            present: True where a case has a modality, bool of shape (B, N), one at least in each case; None for all. What
                stands in the channel of an absent one does not matter.

        Returns:
            sources, inside and present as in :class:`Seen`.

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
        return fill_absent(sources, present), inside, present

    def fuse(self, channels: Tensor, *, present: Tensor | None = None, want_maps: bool = False) -> Seen:
        """Fuse normalised input.

        Args:
            channels: As :meth:`sources` takes them.
            present: The same.
            want_maps: Also give the attention maps.

        Raises:
            ValueError: As :meth:`sources`.
        """
        sources, inside, present = self.sources(channels, present)
        fused = self.fusion(sources, present=present, want_maps=want_maps)
        fused = fused._replace(image=whole_levels(fused.image, inside))
        return Seen(sources, inside, fused, channels[:, self.modalities:], present)

    def segment(self, image: Tensor, extra: Tensor | None = None, *, weights: Mapping[str, Tensor] | None = None,
                flips: Tensor | None = None) -> Tensor | list[Tensor]:
        """Logits of a fused image, and of nothing else but a cascade's labels; a list under deep supervision.

        Args:
            image: In [0, 1], shape (B, C, *S).
            extra: A cascade's one-hot labels, shape (B, E, *S).
            weights: Parameters by their names in the follower, in place of its own.
            flips: The follower sees a sample, and answers, mirrored along the axes where this is True, bool of shape
                (B, axes); None mirrors nothing.
        """
        channels = as_read(image if extra is None else torch.cat([image, extra], dim=1), leader=self.fusion)
        channels = channels if flips is None else mirrored(channels, flips)
        # nnU-Net's U-Net holds its encoder twice. Tying would put the weights in along both ways and leave them there.
        return functional_call(self.segmentation, dict(weights or {}), (channels,), tie_weights=False)

    def forward(self, channels: Tensor, *, present: Tensor | None = None) -> Tensor | list[Tensor]:
        """Logits (B, num_classes, *S) of normalised input (B, input_channels, *S); a list under deep supervision.

        ``present`` is as in :meth:`fuse`.
        """
        seen = self.fuse(channels, present=present)
        return self.segment(seen.fused.image, seen.extra)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """nnU-Net applies this to every module; leader and follower initialise themselves, once, from the top."""
        if isinstance(module, FuseThenSegment):
            module.fusion.initialise()
            follower_initialize = getattr(module.segmentation, "initialize", None)
            if follower_initialize is not None:
                module.segmentation.apply(follower_initialize)


def build_planned(architecture: dict[str, Any], **given: Any) -> nn.Module:
    """Build a network from its part of the plans.

    Args:
        architecture: network_class_name, arch_kwargs, _kw_requires_import.
        **given: What the plans do not say.

    Raises:
        ValueError: The plans name a class that cannot be found.
    """
    arguments = dict(architecture["arch_kwargs"])
    for name in architecture["_kw_requires_import"]:
        if arguments[name] is not None:
            arguments[name] = pydoc.locate(arguments[name])
    network_class = pydoc.locate(architecture["network_class_name"])
    if network_class is None:
        raise ValueError(f"network {architecture['network_class_name']} cannot be imported")
    return network_class(**given, **arguments)
