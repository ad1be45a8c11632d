"""VIF loss: each source's information can still be read from the fused image."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse4seg.losses.filters import gaussian_means, mean_of_present

#: Widths of the windows, from the finest scale to the coarsest; a window's sigma is a fifth of its width.
WINDOWS = (17, 9, 5, 3)
#: Variance of the noise of the visual system, in squared grey levels of 0..255.
NOISE = 2.0
#: Added to a source's variance: what float32 leaves of a variance of 0.
ROUNDING = 1e-2


def vif_loss(fused: Tensor, sources: Tensor, *, present: Tensor | None = None) -> Tensor:
    r"""1 less the mean visual information fidelity (VIF) of the fused image to the sources, in the pixel domain.

    .. math:: 1 - \frac{1}{N} \sum_i \frac{\sum \log (1 + g_i^2 \sigma_i^2 / (\sigma_v^2 + 2))}{\sum \log (1 + \sigma_i^2 / 2)}

    The sums run over four scales and all windows; :math:`\theta = g_i M_i + v` in each window, on the scale
    0..255. Scales at which no window fits are left out. Volumes count slice by slice, as the metric does.

    Args:
        fused: Fused image in [0, 1], shape (B, 1, *S), S of two or three axes. Computed in float32 or better.
        sources: Source modalities in [0, 1], shape (B, N, *S).
        present: True where a case has a modality, bool of shape (B, N); None for all.

    Returns:
        Scalar, at most 1; 0 where all sources equal the fused image; a constant source counts 1.

    Source: method.md, "Fusion losses without labels" (Sheikh and Bovik, Image Information and Visual Quality, 2006).

    Example:
        >>> ct, mri = torch.rand(2, 1, 1, 48, 48, generator=torch.Generator().manual_seed(0))
        >>> vif_loss(ct, torch.cat([ct, ct], dim=1)).abs().round(decimals=2)
        tensor(0.)
        >>> vif_loss(ct, torch.cat([ct, mri], dim=1)).round(decimals=1)
        tensor(0.5000)
    """
    precision = torch.promote_types(fused.dtype, torch.float32)
    # Grey levels around 0, where their squares lose the fewest digits.
    image, references = (255 * (part.to(precision) - 0.5) for part in (fused, sources))
    kept = whole = 0.0
    for scale, window in enumerate(WINDOWS):
        if scale and min(image.shape[-2:]) < 2 * window:
            break
        if scale:
            image, references = (_means(part, window)[..., ::2, ::2] for part in (image, references))
        gain, lost, variance = _channel(image, references, window)
        kept = kept + _total(torch.log1p(gain.square() * variance / (lost + NOISE)))
        whole = whole + _total(torch.log1p(variance / NOISE))
    return 1 - mean_of_present(kept / (whole + ROUNDING), present)


def _channel(image: Tensor, references: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gain and lost variance of the image in each window, and the variance of each reference."""
    modalities = references.shape[1]
    mean, square, products = _means(torch.cat([image, image.square(), image * references], dim=1), window).split(
        [1, 1, modalities], dim=1)
    own_mean, own_square = _means(torch.cat([references, references.square()], dim=1), window).chunk(2, dim=1)
    variance = (own_square - own_mean.square()).clamp(min=0)
    # An inverted image carries nothing.
    covariance = (products - mean * own_mean).clamp(min=0)
    gain = covariance / (variance + ROUNDING)
    lost = (square - mean.square() - gain * covariance).clamp(min=0)
    return gain, lost, variance


def _means(images: Tensor, window: int) -> Tensor:
    return gaussian_means(images, axes=2, window=window, sigma=window / 5)


def _total(values: Tensor) -> Tensor:
    return values.flatten(2).sum(dim=-1)
