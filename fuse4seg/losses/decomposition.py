"""Decomposition loss: modalities share their low frequencies and keep their high frequencies to themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse4seg.ranks import over_ranks, world_size

#: Added to every variance: a constant feature then correlates with nothing, and its gradient stays finite.
VARIANCE_FLOOR = 1e-8
#: Above 1, so that the loss's denominator stays positive for a correlation of -1.
EPSILON = 1.01


def decomposition_loss(low: Tensor, high: Tensor, *, present: Tensor | None = None) -> Tensor:
    r"""Squared correlation of the high-frequency features over the correlation of the low-frequency ones.

    .. math:: \frac{CC(\mathrm{high})^2}{CC(\mathrm{low}) + \varepsilon}

    Args:
        low: Low-frequency features of each modality, shape (B, N, C, *S), S of two or three axes.
        high: High-frequency features of each modality, shape (B, N, C', *S'); channels and size may differ from low.
        present: True where a case has a modality, bool of shape (B, N); None for all.

    Returns:
        Scalar, at least 0; 0 where no case has two modalities to be correlated.

    Source: paper Eq. 11, average pairwise CC (method.md, "Where we leave the paper").

    Example:
        >>> features = torch.arange(8.0).view(1, 1, 1, 2, 4)
        >>> alike, apart = torch.cat([features, features], dim=1), torch.cat([features, features * 0], dim=1)
        >>> decomposition_loss(alike, apart), decomposition_loss(apart, alike)
        (tensor(0.), tensor(0.9901))
    """
    return average_correlation(high, present).square() / (average_correlation(low, present) + EPSILON)


def average_correlation(features: Tensor, present: Tensor | None = None) -> Tensor:
    r"""Pearson correlation over the voxels, averaged over channels and all pairs of modalities that a case has, on all ranks.

    With :math:`z_i` the standardised features of modality i, the pairs' sum comes without a loop over them:
    :math:`\sum_{i \neq j} z_i z_j = (\sum_i z_i)^2 - \sum_i z_i^2`.

    Args:
        features: Shape (B, N, C, *S). Computed in float32 or better, whatever their type.
        present: True where a case has a modality, bool of shape (B, N); None for all.

    Returns:
        Scalar in [-1, 1]; a constant channel counts as 0, and so does a batch without any pair (N = 1).

    Example:
        >>> features = torch.arange(8.0).view(1, 1, 1, 2, 4)
        >>> average_correlation(torch.cat([features, -features], dim=1)).round(decimals=3)
        tensor(-1.)
    """
    modalities = features.shape[1]
    voxels = features.flatten(3).to(torch.promote_types(features.dtype, torch.float32))
    if modalities == 1:
        return voxels.new_zeros(())
    centred = voxels - voxels.mean(dim=-1, keepdim=True)
    standardised = centred * (centred.square().mean(dim=-1, keepdim=True) + VARIANCE_FLOOR).rsqrt()
    if present is not None:
        standardised = standardised * present.view(*present.shape, 1, 1)
    products = standardised.sum(dim=1).square() - standardised.square().sum(dim=1)
    if present is None:
        return over_ranks(products.mean()) / (modalities * (modalities - 1))
    counts = present.sum(dim=1)
    pairs = over_ranks((counts * (counts - 1)).sum()).clamp(min=1 / world_size())
    return over_ranks(products.mean(dim=(1, 2)).sum() / pairs)
