"""VIF: visual information fidelity in the pixel domain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from fuse4seg.evaluation.grey import gaussian_means, grey_alike, sum_over_two

#: Radii of the windows, from the finest scale to the coarsest; a window's sigma is a fifth of its width.
RADII = (8, 4, 2, 1)
#: Variance of the noise of the visual system, in squared grey levels.
NOISE = 2.0
#: Variances below are taken to be 0.
NOTHING = 1e-10
#: Smaller images leave no window at the coarsest scale.
SMALLEST = 41


def vif(fused: np.ndarray, sources: Sequence[np.ndarray]) -> float:
    r"""Share of each source's information that the fused image still gives, summed over two sources.

    .. math:: \frac{\sum \log_{10} (1 + g^2 \sigma_A^2 / (\sigma_v^2 + 2))}{\sum \log_{10} (1 + \sigma_A^2 / 2)}

    The sums run over four scales and all windows; :math:`F = g A + v` in each window.

    Args:
        fused: Shape (Y, X), see :func:`~fuse4seg.evaluation.grey.grey`, 41 voxels at least along each axis.
        sources: Two or more of that shape; of more than two, the mean over all pairs.

    Returns:
        0 or more; a source copied gives 1 for itself. NaN where a source is constant.

    Raises:
        ValueError: Shapes, types or ranges do not fit.

    Source: fusion-metrics.md, "Fusion metrics" (Sheikh and Bovik, Image Information and Visual Quality, 2006).

    Example:
        >>> ct, mri = np.random.default_rng(0).integers(0, 256, (2, 48, 48), dtype=np.uint8)
        >>> round(vif(ct, [ct, ct]), 3), round(vif(ct, [ct, mri]), 2)
        (2.0, 1.0)
    """
    image, references = grey_alike(fused, sources)
    if min(image.shape) < SMALLEST:
        raise ValueError(f"VIF needs {SMALLEST} voxels along each axis, the image has shape {image.shape}")
    return sum_over_two(references, lambda source: _of_source(source, image))


def _of_source(source: np.ndarray, fused: np.ndarray) -> float:
    kept = whole = 0.0
    for scale, radius in enumerate(RADII):
        means = partial(gaussian_means, radius=radius, sigma=(2 * radius + 1) / 5)
        if scale:
            source, fused = (means(image)[::2, ::2] for image in (source, fused))
        mean, other = means(source), means(fused)
        variance = np.maximum(means(source * source) - mean**2, 0)
        other_variance = np.maximum(means(fused * fused) - other**2, 0)
        covariance = means(source * fused) - mean * other
        gain = covariance / (variance + NOTHING)
        lost = other_variance - gain * covariance
        gain, lost = np.where(variance < NOTHING, 0, gain), np.where(variance < NOTHING, other_variance, lost)
        variance = np.where(variance < NOTHING, 0, variance)
        nothing_left, inverted = other_variance < NOTHING, gain < 0
        lost = np.where(inverted, other_variance, np.where(nothing_left, 0, lost))
        gain = np.where(nothing_left | inverted, 0, gain)
        kept += np.log10(1 + gain**2 * variance / (np.maximum(lost, NOTHING) + NOISE)).sum()
        whole += np.log10(1 + variance / NOISE).sum()
    return float(kept / whole) if whole else float("nan")
