"""Content loss: a reconstruction keeps the intensities and the structure of its modality."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss

from fuse4seg.losses.ssim import ssim


def content_loss(reconstructed: Tensor, sources: Tensor) -> Tensor:
    r"""Mean squared error plus 1 - SSIM, summed over the modalities.

    .. math:: \sum_i \frac{1}{|\Omega|} \lVert M_i - \hat{M}_i \rVert^2 + (1 - \mathrm{SSIM}(M_i, \hat{M}_i))

    The squared norm is taken as the mean over batch and voxels, so that the two terms keep their proportion at any
    patch size. All modalities have equally many voxels, so the sum over them is N times the mean.

    Args:
        reconstructed: Reconstructed modalities in [0, 1], shape (B, N, *S), S of two or three axes.
        sources: The modalities themselves, same shape.

    Returns:
        Scalar, 0 for a perfect reconstruction.

    Raises:
        ValueError: The shapes differ.

    Source: paper Eq. 12.
    """
    similarity = ssim(reconstructed, sources)
    return sources.shape[1] * (mse_loss(reconstructed, sources) + 1 - similarity)
