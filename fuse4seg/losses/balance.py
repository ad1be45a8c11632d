"""Balance loss: the fused image looks like every source, most urgently like the one it resembles least."""

from __future__ import annotations

from torch import Tensor

from fuse4seg.losses.presence import mean_of_present
from fuse4seg.losses.ssim import ssim_of_each


def balance_loss(fused: Tensor, sources: Tensor, *, present: Tensor | None = None) -> Tensor:
    r"""Mean square of what the SSIM of the fused image to the sources lacks.

    .. math:: \frac{1}{N} \sum_i (1 - \mathrm{SSIM}(\theta, M_i))^2

    The mean SSIM alone (:func:`ssim_loss`) is as content with an image that is one source at the expense of another.

    Args:
        fused: Fused image in [0, 1], shape (B, 1, *S), S of two or three axes.
        sources: Source modalities in [0, 1], shape (B, N, *S).
        present: True where a case has a modality, bool of shape (B, N); None for all.

    Returns:
        Scalar in [0, 4], 0 where all sources equal the fused image.

    Source: method.md, "Two stages", stage 2.
    """
    return mean_of_present((1 - ssim_of_each(fused, sources)).square(), present)
