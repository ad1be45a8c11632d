"""Structure loss: the fused image looks like every source, locally."""

from __future__ import annotations

from torch import Tensor

from fuse4seg.losses.presence import mean_of_present
from fuse4seg.losses.ssim import ssim_of_each


def structure_loss(fused: Tensor, sources: Tensor, *, present: Tensor | None = None) -> Tensor:
    r"""1 less the mean SSIM of the fused image to the sources.

    .. math:: 1 - \frac{1}{N} \sum_i \mathrm{SSIM}(\theta, M_i)

    Args:
        fused: Fused image in [0, 1], shape (B, 1, *S), S of two or three axes.
        sources: Source modalities in [0, 1], shape (B, N, *S).
        present: True where a case has a modality, bool of shape (B, N); None for all.

    Returns:
        Scalar in [0, 2], 0 where all sources equal the fused image.

    Source: method.md, "Fusion losses without labels".
    """
    return 1 - mean_of_present(ssim_of_each(fused, sources), present)
