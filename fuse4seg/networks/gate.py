"""Gate: every voxel of the fused image is a mixture of the sources and of what the decoder painted."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, prod

import torch
from torch import Tensor, nn

from fuse4seg.networks.presence import fill_absent
from fuse4seg.networks.rearrange import depth_to_space

#: Share logit of the painted image before training: 6 % where two sources are black, less where they are bright.
PAINTED_AT_START = -2.0
#: How strongly the brighter source is preferred before training: a little. On real T1ce and FLAIR the voxelwise maximum,
#: which the intensity loss asks for, hides the enhancing tumour that the mean still tells apart.
BRIGHTER_AT_START = 1.0
#: The same with a halftone, whose shares a follower is to know: from 2, it found the enhancing tumour later.
BRIGHTER_WITH_HALFTONE = 0.0
#: The same where there is no task: near the maximum, which is what other fusions without labels are held against.
BRIGHTER_WITHOUT_TASK = 10.0
#: Strength of the halftone. With .9, T1 and FLAIR became an image that was not much like either; at .4 a follower reads them as
#: well.
STRENGTH = 0.4
#: Bound of the features' scores of the sources without a task: of two sources, each keeps a share of .25 % at least.
BOUND_WITHOUT_TASK = 3.0


class Gate(nn.Module):
    r"""Shares of each source and of the painted image, per voxel.

    .. math:: g = \mathrm{softmax}(s_1 + h_1 + \beta M_1, \dots, s_N + h_N + \beta M_N, s_p),
        \quad \theta = \sum_i g_i M_i + g_p P

    A convex mixture: the fused image lies in [0, 1] without clamping, is readable before the first iteration, and can
    still become anything, because P can. The scores come from shared weights, so any number of modalities will do.

    The halftone :math:`h_i`, where there is one, is a fixed score per modality and place within a feature's block of voxels
    (2 x 2, 2 x 2 x 2): where modalities differ, each shows through at voxels of its own, as colours do in print, so that one
    channel can carry several from the first iteration on. The scores of the features can be bounded, so that they shift tones
    and do not wash the raster out: fusion losses would do that before a follower has found what it is good for.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        features: Channels of the decoder's and of the high-frequency features.
        detail_stride: Voxels per feature, per axis.
        halftone_of: Number of modalities that a halftone is to tell apart; 0 for none.
        strength: Of the halftone, above 0 and below 1. Before training a voxel shows so much of its owner, and of the rest the
            mean of all modalities.
        bound: The features' scores of the sources stay within this, above 0; None for no bound.
        without_task: Starts near the voxelwise maximum, and the bound is BOUND_WITHOUT_TASK: from the mean, a gate that nothing
            but fusion losses trains settles on one source everywhere, and cannot let go of it.

    Source: method.md, "What a first sketch measured" (a per-pixel softmax gate over the sources plus a residual).
    """

    def __init__(self, conv_op: type[nn.Module], features: int, *, detail_stride: Sequence[int],
                 halftone_of: int = 0, strength: float = STRENGTH, bound: float | None = None,
                 without_task: bool = False) -> None:
        super().__init__()
        self.detail_stride, self.strength = tuple(detail_stride), strength
        self.bound = BOUND_WITHOUT_TASK if without_task else bound
        self.brighter_at_start = (BRIGHTER_WITHOUT_TASK if without_task else
                                  BRIGHTER_WITH_HALFTONE if halftone_of else BRIGHTER_AT_START)
        fine = prod(detail_stride)
        self.source = nn.Sequential(conv_op(2 * features, features, 1), nn.LeakyReLU(0.01), conv_op(features, fine, 1))
        self.painted = conv_op(features, fine, 1)
        self.brighter = nn.Parameter(torch.tensor(self.brighter_at_start))
        self.register_buffer("halftone", halftone(halftone_of, fine, strength=strength) if halftone_of else None)
        self.reset()

    @property
    def owned(self) -> Tensor:
        """Which voxels of a block the halftone gives to which modality, bool of shape (N, *block)."""
        return (self.halftone == self.halftone.amax(dim=0)).unflatten(1, self.detail_stride)

    @property
    def each_has_its_own(self) -> bool:
        """Whether every modality has a place of a block to itself."""
        modalities, places = self.halftone.shape
        return modalities <= places

    def reset(self) -> None:
        """Start near the mean of the sources (without a task near their maximum), with a small share of the painted image."""
        for last in (self.source[-1], self.painted):
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
        nn.init.constant_(self.painted.bias, PAINTED_AT_START)
        nn.init.constant_(self.brighter, self.brighter_at_start)

    def forward(self, decoded: Tensor, high: Tensor, sources: Tensor, *, present: Tensor | None = None) -> Tensor:
        """Shares of the N sources and, last, of the painted image.

        Args:
            decoded: Features of the decoder, shape (B, c, *t).
            high: High-frequency features of every modality, shape (B, N, c, *t).
            sources: In [0, 1], shape (B, N, *S).
            present: True where a case has a modality, bool of shape (B, N); None for all.

        Returns:
            Non-negative, 0 for absent sources, sum 1 over dimension 1, shape (B, N + 1, *S).
        """
        batch, modalities = sources.shape[:2]
        beside = torch.cat([decoded.unsqueeze(1).expand_as(high), high], dim=2).flatten(0, 1)
        scores = self.source(beside)
        if self.bound is not None:
            scores = self.bound * (scores / self.bound).tanh()
        if self.halftone is not None:
            scores = scores + self.halftone.repeat(batch, 1).view(*scores.shape[:2], *[1] * len(self.detail_stride))
        scores = depth_to_space(scores, self.detail_stride).squeeze(1).unflatten(0, (batch, modalities))
        painted = depth_to_space(self.painted(decoded), self.detail_stride)
        scores = fill_absent(scores + self.brighter * sources, present, value=-torch.inf)
        return torch.cat([scores, painted], dim=1).softmax(dim=1)


def halftone(modalities: int, places: int, *, strength: float) -> Tensor:
    """Scores of every modality at every place of a block, shape (modalities, places).

    Their softmax is what a voxel shows of each modality: ``strength`` of its owner and, of the rest, as much of each. With one
    modality or one place there is nothing to share out.
    """
    scores = torch.zeros(modalities, places)
    if min(modalities, places) > 1:
        own = strength + (1 - strength) / modalities
        for modality, place in owners(modalities, places):
            scores[modality, place] = log((modalities - 1) * own / (1 - own))
    return scores


def owners(modalities: int, places: int) -> list[tuple[int, int]]:
    """Which modality owns which place of a block: as evenly as can be, pairs of (modality, place).

    Two modalities share a block like the colours of a chequerboard. Where there are fewer places than modalities, a place has
    several owners.
    """
    if modalities > places:
        return [(modality, modality % places) for modality in range(modalities)]
    # Each round of places begins one further, by the Thue-Morse sequence, or modalities would lie in stripes.
    return [((place + (place // modalities).bit_count()) % modalities, place) for place in range(places)]
