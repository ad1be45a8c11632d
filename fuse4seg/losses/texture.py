"""Texture loss: the fused image keeps the strongest edge of any source."""

from __future__ import annotations

from torch import Tensor

from fuse4seg.losses.gradient import gradient_magnitude


def texture_loss(fused: Tensor, sources: Tensor) -> Tensor:
    r"""Mean absolute difference between the fused image's edges and the strongest source edge.

    .. math:: \frac{1}{|\Omega|} \lVert |\nabla\theta| - \max_i |\nabla M_i| \rVert_1

    Args:
        fused: Fused image in [0, 1], shape (B, 1, *S), S of two or three axes.
        sources: Source modalities in [0, 1], shape (B, N, *S), N at least 1.

    Returns:
        Scalar, 0 where every edge of the fused image equals the strongest source edge.

    Source: paper Eq. 13, maximum taken over N sources (method.md, "Where we leave the paper").
    """
    strongest = gradient_magnitude(sources).amax(dim=1, keepdim=True)
    return (gradient_magnitude(fused) - strongest).abs().mean()
