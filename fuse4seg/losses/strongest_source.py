"""Intensity, texture and edge loss: the fused image is as bright and as sharp as the strongest source at each place."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from fuse4seg.losses.filters import gradient_magnitude


def intensity_loss(fused: Tensor, sources: Tensor) -> Tensor:
    r"""Mean absolute difference between the fused image and the voxelwise maximum of the sources.

    .. math:: \frac{1}{|\Omega|} \lVert \theta - \max_i M_i \rVert_1

    Args:
        fused: Fused image in [0, 1], shape (B, 1, *S), S of two or three axes.
        sources: Source modalities in [0, 1], shape (B, N, *S), N at least 1.

    Returns:
        Scalar in [0, 1].

    Source: method.md, "Two stages".

    Example:
        >>> sources = torch.tensor([[0.2, 0.9], [0.4, 0.1]]).view(1, 2, 1, 2)
        >>> intensity_loss(torch.tensor([0.4, 0.9]).view(1, 1, 1, 2), sources)
        tensor(0.)
        >>> intensity_loss(torch.tensor([0.5, 0.5]).view(1, 1, 1, 2), sources)
        tensor(0.2500)
    """
    return (fused - sources.amax(dim=1, keepdim=True)).abs().mean()


def texture_loss(fused: Tensor, sources: Tensor) -> Tensor:
    r"""Mean absolute difference between the fused image's edges and the strongest source edge.

    .. math:: \frac{1}{|\Omega|} \lVert |\nabla\theta| - \max_i |\nabla M_i| \rVert_1

    Args:
        fused: Fused image in [0, 1], shape (B, 1, *S), S of two or three axes.
        sources: Source modalities in [0, 1], shape (B, N, *S), N at least 1.

    Returns:
        Scalar, 0 where every edge of the fused image equals the strongest source edge.

    Source: paper Eq. 13, maximum taken over N sources (method.md, "Where we leave the paper").

    Example:
        >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 4, 4)
        >>> texture_loss(step, step), texture_loss(1 - step, step), texture_loss(torch.zeros(1, 1, 4, 4), step)
        (tensor(0.), tensor(0.), tensor(0.2500))
    """
    strongest = gradient_magnitude(sources).amax(dim=1, keepdim=True)
    return (gradient_magnitude(fused) - strongest).abs().mean()


def edge_loss(fused: Tensor, sources: Tensor) -> Tensor:
    r"""Mean distance of the differences between neighbours to the largest such difference of any source, summed over the axes.

    .. math:: \sum_a \frac{1}{|\Omega|} \lVert D_a \theta - D_a M_{j_a} \rVert_1,
        \quad j_a = \arg\max_i |D_a M_i|, \quad D_a = [-1, 1]

    Unlike the texture loss it knows which side of an edge is the bright one, and it sees every neighbour: Sobel's smoothing
    is blind to a chequerboard.

    Args:
        fused: Fused image in [0, 1], shape (B, 1, *S), S of two or three axes.
        sources: Source modalities in [0, 1], shape (B, N, *S), N at least 1. Absent ones are 0: they have no edges.

    Returns:
        Scalar, 0 where every difference equals the largest of the sources.

    Source: method.md, "Two stages", stage 2.

    Example:
        >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 4, 4)
        >>> edge_loss(step, step), edge_loss(1 - step, step), edge_loss(torch.zeros(1, 1, 4, 4), step)
        (tensor(0.), tensor(0.6667), tensor(0.3333))
    """
    pairs = zip(_differences(fused), _differences(sources), strict=True)
    return sum((found - _steepest(steps)).abs().mean() for found, steps in pairs)


def _steepest(steps: Tensor) -> Tensor:
    """Of each place the difference with the largest magnitude, shape (B, 1, *S) of (B, N, *S)."""
    # One modality after the other: argmax over them takes 20 times as long on a CPU.
    return reduce(lambda steepest, other: torch.where(other.abs() > steepest.abs(), other, steepest), steps.split(1, dim=1))


def _differences(images: Tensor) -> Iterator[Tensor]:
    """Along each axis that has neighbours."""
    return (images.diff(dim=axis) for axis in range(2, images.ndim) if images.shape[axis] > 1)
