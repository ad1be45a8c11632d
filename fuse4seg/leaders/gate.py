"""Ours: each channel of the image is a mixture of sources and a tint, with shares that change smoothly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.networks.convolution import LINEAR
from fuse4seg.networks.dual_stream import DualStreamLeader, DualStreamSettings
from fuse4seg.networks.palette import preferences
from fuse4seg.networks.presence import fill_absent
from fuse4seg.recipes.recipe import entry

#: Share logit of the tint before training, beside sources whose odds add up to their number: 6 % with two, 3 % with four.
TINT_AT_START = -2.0


class Gate(nn.Module):
    r"""Paint an image of one or three channels.

    .. math:: g_c = \mathrm{softmax}(\hat s_{c1} + p_{c1} + \beta M_1, \dots, \hat s_{cN} + p_{cN} + \beta M_N, \hat s_{ct}),
        \quad \theta_c = \sum_i g_{ci} M_i + g_{ct} \hat T_c

    The scores s and the tint T have one value per feature and are brought up linearly (the hat), p are the :func:`preferences`.
    So whatever differs from one voxel to the next comes from the sources, and there is no fine pattern to hide anything in. A
    convex mixture: the image lies in [0, 1] without clamping, and is readable before the first iteration. The scores come from
    shared weights, so any number of modalities will do.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        features: Channels of the decoder's and of the high-frequency features.
        modalities: Number N of sources.
        colours: Channels of the image, 1 or 3.
        brighter: beta before training: how strongly the brighter source is preferred.

    Source: method.md, "The network".
    """

    def __init__(self, conv_op: type[nn.Module], features: int, *, modalities: int, colours: int, brighter: float) -> None:
        super().__init__()
        self.colours, self.brighter_at_start = colours, brighter
        # One layer on both side by side, but what all modalities share is looked at once.
        self.shared, self.own = (conv_op(features, features, 1) for _ in range(2))
        self.source = nn.Sequential(nn.LeakyReLU(0.01, inplace=True), conv_op(features, colours, 1))
        self.tint_share = conv_op(features, colours, 1)
        self.tint = conv_op(features, colours, 1)
        self.brighter = nn.Parameter(torch.tensor(brighter))
        self.register_buffer("preferred", preferences(modalities, colours), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Start from the palette alone, with a small share of tint."""
        for last in (self.source[-1], self.tint_share):
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
        nn.init.constant_(self.tint_share.bias, TINT_AT_START)
        nn.init.constant_(self.brighter, self.brighter_at_start)

    def forward(self, decoded: Tensor, high: Tensor, sources: Tensor, *, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Paint.

        Args:
            decoded: Features of the decoder, shape (B, c, *t).
            high: High-frequency features of every modality, shape (B, N, c, *t).
            sources: In [0, 1], shape (B, N, *S).
            present: True where a case has a modality, bool of shape (B, N); None for all.

        Returns:
            The image in [0, 1], shape (B, C, *S), and the shares of the N sources and, last, of the tint in each channel,
            non-negative, 0 for absent sources, of sum 1 over dimension 2, shape (B, C, N + 1, *S).
        """
        beside = self.own(high.flatten(0, 1)).unflatten(0, high.shape[:2]) + self.shared(decoded).unsqueeze(1)
        scores = self.source(beside.flatten(0, 1)).unflatten(0, high.shape[:2]).transpose(1, 2)
        scores = scores + self.preferred.view(*self.preferred.shape, *[1] * (decoded.ndim - 2))
        painted = torch.stack([self.tint_share(decoded), self.tint(decoded).sigmoid()], dim=2)
        scores, (tint_share, tint) = self._smooth(torch.cat([scores, painted], dim=2), sources)
        scores = fill_absent((scores + self.brighter * sources.unsqueeze(1)).transpose(1, 2), present, value=-torch.inf)
        shares = torch.cat([scores.transpose(1, 2), tint_share.unsqueeze(2)], dim=2).softmax(dim=2)
        image = (shares[:, :, :-1] * sources.unsqueeze(1)).sum(dim=2) + shares[:, :, -1] * tint
        return image, shares

    def _smooth(self, coarse: Tensor, like: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Scores (B, C, N, *S), the tint's and the tint (B, C, *S) of one value per feature, (B, C, N + 2, *t)."""
        fine = functional.interpolate(coarse.flatten(1, 2), size=like.shape[2:], mode=LINEAR[like.ndim - 2])
        scores, *painted = fine.unflatten(1, coarse.shape[1:3]).split([coarse.shape[2] - 2, 1, 1], dim=2)
        return scores, tuple(part.squeeze(2) for part in painted)


@dataclass(frozen=True)
class Settings(DualStreamSettings):
    """Entries of the gate and of both streams."""

    brighter: float = entry("how strongly the brighter source is preferred before training", least=0, planned=True)


class GateLeader(DualStreamLeader):
    """Our own leader: nothing finer than the features' grid is in the image but what the sources show.

    Args:
        modalities, conv_op, strides, reference, colours: As every leader takes them.
        brighter: How strongly the :class:`Gate` prefers the brighter source before training.
        **streams: See :class:`DualStreamLeader`.

    Example:
        >>> leader = GateLeader(2, conv_op=nn.Conv2d, strides=[1, 2, 2])
        >>> leader(torch.rand(1, 2, 20, 30)).image.shape
        torch.Size([1, 3, 20, 30])
    """

    def __init__(self, modalities: int, *, conv_op: type[nn.Module], strides: Sequence[Sequence[int] | int], reference: int = 0,
                 colours: int = 3, brighter: float = 0.0, **streams: Any) -> None:
        super().__init__(modalities, conv_op=conv_op, strides=strides, reference=reference, colours=colours, **streams)
        self.gate = Gate(conv_op, self.detail_features, modalities=modalities, colours=colours, brighter=brighter)
        # Few channels at many places: with the channels of a voxel side by side, a pass takes two thirds of the time.
        self.to(memory_format=torch.channels_last if self.axes == 2 else torch.channels_last_3d)

    def paint(self, decoded: Tensor, high: Tensor, sources: Tensor, *, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mixture, and the shares in it; see :class:`DualStreamLeader`."""
        return self.gate(decoded, high, sources, present=present)

    def initialise(self) -> None:
        """He initialisation; the gate starts from the palette alone."""
        super().initialise()
        self.gate.reset()


LEADER = GateLeader
