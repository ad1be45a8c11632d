"""SCD loss: what the fused image has beyond one source is the other."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse4seg.losses.filters import mean_of_present

#: Added to every product of variances: a constant image then correlates with nothing, and its gradient stays finite.
VARIANCE_FLOOR = 1e-8


def scd_loss(fused: Tensor, sources: Tensor, *, present: Tensor | None = None) -> Tensor:
    r"""1 less the mean correlation of each source with the difference between the fused image and another.

    .. math:: 1 - \frac{1}{N (N - 1)} \sum_{i \neq j} r(M_i, \theta - M_j)

    For two sources that is 1 less half of the metric SCD.

    Args:
        fused: Fused image in [0, 1], shape (B, 1, *S), S of two or three axes.
        sources: Source modalities in [0, 1], shape (B, N, *S).
        present: True where a case has a modality, bool of shape (B, N); None for all.

    Returns:
        Scalar in [0, 2]; 0 of no gradient where no case has two modalities.

    Source: method.md, "Fusion losses without labels" (Aslantas and Bendes, A new image quality metric for image fusion,
    2015).

    Example:
        >>> ct, mri = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> sources = torch.cat([ct, mri], dim=1)
        >>> scd_loss((ct + mri) / 2, sources / 2).abs().round(decimals=3), scd_loss(ct, sources).round(decimals=1)
        (tensor(0.), tensor(0.6000))
    """
    modalities = sources.shape[1]
    pairs = ~torch.eye(modalities, dtype=torch.bool, device=sources.device).expand(len(sources), -1, -1)
    if present is not None:
        pairs = pairs & present[:, :, None] & present[:, None, :]
    one, beyond = _centred(sources), _centred(fused - sources)
    products = one @ beyond.transpose(1, 2) / one.shape[-1]
    norms = one.square().mean(dim=-1)[:, :, None] * beyond.square().mean(dim=-1)[:, None, :]
    correlations = products * (norms + VARIANCE_FLOOR).rsqrt()
    return mean_of_present(1 - correlations, pairs)


def _centred(images: Tensor) -> Tensor:
    voxels = images.flatten(2).to(torch.promote_types(images.dtype, torch.float32))
    return voxels - voxels.mean(dim=-1, keepdim=True)
