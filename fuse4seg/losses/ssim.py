"""Structural similarity (SSIM), differentiable, in 2D and 3D, and what is made of it: SSIM, balance and content loss."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fuse4seg.losses.filters import gaussian_means, mean_of_present

#: Width of the Gaussian window and its standard deviation, in voxels.
WINDOW, SIGMA = 11, 1.5
LUMINANCE_CONSTANT, CONTRAST_CONSTANT = 0.01, 0.03


def ssim(first: Tensor, second: Tensor) -> Tensor:
    r"""Mean SSIM under a Gaussian window of 11 voxels and standard deviation 1.5.

    .. math:: \frac{(2 \mu_a \mu_b + c_1)(2 \sigma_{ab} + c_2)}
        {(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)}, \quad c_1 = 0.01^2, \quad c_2 = 0.03^2

    The mean is taken over the voxels whose window lies inside the image (no padding), so the border of half a window
    counts less. An axis shorter than the window gets the largest odd window that fits it; an axis of one voxel is not
    filtered.

    Args:
        first: Images in [0, 1], shape (B, C, *S), S of two or three axes. Computed in float32 or better, whatever their type.
        second: Images of the same shape.

    Returns:
        Scalar in [-1, 1], 1 where the images are equal.

    Raises:
        ValueError: The shapes differ.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.

    Example:
        >>> ct, mri = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> ssim(ct, ct).round(decimals=3), ssim(ct, mri).round(decimals=1)
        (tensor(1.), tensor(-0.1000))
    """
    _require_one_shape(first, second)
    return ssim_of_each(first, second).mean()


def _require_one_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"SSIM needs two images of one shape, got {tuple(first.shape)} and {tuple(second.shape)}")


def ssim_of_each(first: Tensor, second: Tensor) -> Tensor:
    """:func:`ssim` of each image and channel, shape (B, C); where ``first`` has one channel, of that with each of ``second``.

    Example:
        >>> ct, mri = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> ssim_of_each(ct, torch.cat([ct, mri], dim=1)).round(decimals=1)
        tensor([[ 1.0000, -0.1000]])
    """
    precision = torch.promote_types(first.dtype, torch.float32)
    first, second = first.to(precision), second.to(precision)
    # Apart, so that one channel is not filtered as often as it is compared, nor backward what asks for no gradient.
    averages = partial(gaussian_means, axes=first.ndim - 2, window=WINDOW, sigma=SIGMA)
    mean_a, square_a = averages(torch.stack([first, first * first])).unbind()
    mean_b, square_b = averages(torch.stack([second, second * second])).unbind()
    product = averages(first * second)
    luminance, contrast = LUMINANCE_CONSTANT ** 2, CONTRAST_CONSTANT ** 2
    covariance = product - mean_a * mean_b
    variances = square_a - mean_a * mean_a + square_b - mean_b * mean_b
    similarity = (2 * mean_a * mean_b + luminance) * (2 * covariance + contrast)
    values = similarity / ((mean_a * mean_a + mean_b * mean_b + luminance) * (variances + contrast))
    return values.flatten(2).mean(dim=-1)


def ssim_loss(fused: Tensor, sources: Tensor, *, present: Tensor | None = None) -> Tensor:
    r"""1 less the mean SSIM of the fused image to the sources.

    .. math:: 1 - \frac{1}{N} \sum_i \mathrm{SSIM}(\theta, M_i)

    Args:
        fused: Fused image in [0, 1], shape (B, 1, *S), S of two or three axes.
        sources: Source modalities in [0, 1], shape (B, N, *S).
        present: True where a case has a modality, bool of shape (B, N); None for all.

    Returns:
        Scalar in [0, 2], 0 where all sources equal the fused image.

    Source: method.md, "Fusion losses without labels".

    Example:
        >>> ct, mri = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> ssim_loss(ct, torch.cat([ct, mri], dim=1)).round(decimals=1)  # one source is there, and nothing of the other
        tensor(0.5000)
    """
    return 1 - mean_of_present(ssim_of_each(fused, sources), present)


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

    Example:
        >>> ct, mri = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> sources = torch.cat([ct, mri], dim=1)
        >>> bool(balance_loss((ct + mri) / 2, sources) < balance_loss(ct, sources))
        True
    """
    return mean_of_present((1 - ssim_of_each(fused, sources)).square(), present)


def content_loss(reconstructed: Tensor, sources: Tensor, *, present: Tensor | None = None) -> Tensor:
    r"""Mean squared error plus 1 - SSIM, summed over the modalities.

    .. math:: \sum_i \frac{1}{|\Omega|} \lVert M_i - \hat{M}_i \rVert^2 + (1 - \mathrm{SSIM}(M_i, \hat{M}_i))

    The squared norm is taken as the mean over batch and voxels, so that the two terms keep their proportion at any
    patch size. All modalities have equally many voxels, so the sum over them is N times the mean, also of those there are.

    Args:
        reconstructed: Reconstructed modalities in [0, 1], shape (B, N, *S), S of two or three axes.
        sources: The modalities themselves, same shape.
        present: True where a case has a modality, bool of shape (B, N); None for all.

    Returns:
        Scalar, 0 for a perfect reconstruction.

    Raises:
        ValueError: The shapes differ.

    Source: paper Eq. 12.

    Example:
        >>> sources = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> content_loss(sources, sources).abs().round(decimals=3)
        tensor(0.)
    """
    if present is None:
        similarity = ssim(reconstructed, sources)
        return sources.shape[1] * (mse_loss(reconstructed, sources) + 1 - similarity)
    _require_one_shape(reconstructed, sources)
    errors = (reconstructed - sources).square().flatten(2).mean(dim=-1)
    return sources.shape[1] * mean_of_present(errors + 1 - ssim_of_each(reconstructed, sources), present)
