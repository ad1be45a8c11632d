"""Intensity loss: the fused image is as bright as its brightest source."""

from __future__ import annotations

from torch import Tensor


def intensity_loss(fused: Tensor, sources: Tensor) -> Tensor:
    r"""Mean absolute difference between the fused image and the voxelwise maximum of the sources.

    .. math:: \frac{1}{|\Omega|} \lVert \theta - \max_i M_i \rVert_1

    Args:
        fused: Fused image in [0, 1], shape (B, 1, *S), S of two or three axes.
        sources: Source modalities in [0, 1], shape (B, N, *S), N at least 1.

    Returns:
        Scalar in [0, 1].

    Source: method.md, "Two stages".
    """
    return (fused - sources.amax(dim=1, keepdim=True)).abs().mean()
