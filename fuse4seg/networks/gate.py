"""Gate: every voxel of the fused image is a mixture of the sources and of what the decoder painted."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from fuse4seg.networks.presence import fill_absent
from fuse4seg.networks.rearrange import depth_to_space

#: Share logit of the painted image before training: 6 % where two sources are black, less where they are bright.
PAINTED_AT_START = -2.0
#: How strongly the brighter source is preferred before training: a little. On real T1ce and FLAIR the voxelwise maximum,
#: which the intensity loss asks for, hides the enhancing tumour that the mean still tells apart.
BRIGHTER_AT_START = 1.0


class Gate(nn.Module):
    r"""Shares of each source and of the painted image, per voxel.

    .. math:: g = \mathrm{softmax}(s_1 + \beta M_1, \dots, s_N + \beta M_N, s_p),
        \quad \theta = \sum_i g_i M_i + g_p P

    A convex mixture: the fused image lies in [0, 1] without clamping, is readable before the first iteration, and can
    still become anything, because P can. The scores come from shared weights, so any number of modalities will do.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        features: Channels of the decoder's and of the high-frequency features.
        detail_stride: Voxels per feature, per axis.
        brighter: beta before training.
        bound: The features' scores of the sources stay within this, above 0; None for no bound.
        per_block: One score for the voxels of a feature together, so that shares differ between them by the sources' own grey
            levels alone: what lies over them in a fixed raster cannot be taken back voxel by voxel.

    Source: method.md, "What a first sketch measured" (a per-pixel softmax gate over the sources plus a residual).
    """

    def __init__(self, conv_op: type[nn.Module], features: int, *, detail_stride: Sequence[int],
                 brighter: float = BRIGHTER_AT_START, bound: float | None = None, per_block: bool = False) -> None:
        super().__init__()
        self.detail_stride, self.brighter_at_start, self.bound = tuple(detail_stride), brighter, bound
        fine = 1 if per_block else prod(detail_stride)
        self.source = nn.Sequential(conv_op(2 * features, features, 1), nn.LeakyReLU(0.01), conv_op(features, fine, 1))
        self.painted = conv_op(features, fine, 1)
        self.brighter = nn.Parameter(torch.tensor(brighter))
        self.reset()

    def reset(self) -> None:
        """Start between the mean and the maximum of the sources, as beta says, with a small share of the painted image."""
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
        scores = self._per_voxel(scores).squeeze(1).unflatten(0, (batch, modalities))
        painted = self._per_voxel(self.painted(decoded))
        scores = fill_absent(scores + self.brighter * sources, present, value=-torch.inf)
        return torch.cat([scores, painted], dim=1).softmax(dim=1)

    def _per_voxel(self, scores: Tensor) -> Tensor:
        """Shape (B, 1, *S) of (B, 1 or voxels of a feature, *t)."""
        return depth_to_space(scores.expand(-1, prod(self.detail_stride), *scores.shape[2:]), self.detail_stride)
