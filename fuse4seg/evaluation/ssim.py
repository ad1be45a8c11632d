"""SSIM: structural similarity to the sources."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from fuse4seg.colour import WHITE
from fuse4seg.evaluation.grey import gaussian_means, grey_alike, sum_over_two

#: Gaussian window of 11 x 11 voxels.
SIGMA, RADIUS = 1.5, 5
K1, K2 = 0.01, 0.03


def ssim(fused: np.ndarray, sources: Sequence[np.ndarray], *, data_range: float = WHITE) -> float:
    r"""Mean SSIM with Gaussian windows that lie inside the image, summed over two sources.

    Args:
        fused: Shape (Y, X), see :func:`~fuse4seg.evaluation.grey.grey`, 11 voxels at least along each axis.
        sources: Two or more of that shape; of more than two, the mean over all pairs.
        data_range: L of the two constants, above 0.

    Returns:
        At most 2, for equal images.

    Raises:
        ValueError: Shapes, types or ranges do not fit.

    Source: fusion-metrics.md, "Fusion metrics" (Wang et al., Image Quality Assessment, 2004: K1 .01, K2 .03, sigma 1.5).

    Example:
        >>> ct, mri = np.random.default_rng(0).integers(0, 256, (2, 48, 48), dtype=np.uint8)
        >>> round(ssim(ct, [ct, ct]), 3), round(ssim(ct, [ct, mri]), 2)
        (2.0, 0.99)
    """
    image, references = grey_alike(fused, sources)
    if min(image.shape) <= 2 * RADIUS:
        raise ValueError(f"SSIM needs {2 * RADIUS + 1} voxels along each axis, the image has shape {image.shape}")
    if not data_range > 0:
        raise ValueError(f"the data range lies above 0, got {data_range}")
    small, smaller = (K1 * data_range)**2, (K2 * data_range)**2
    means = partial(gaussian_means, radius=RADIUS, sigma=SIGMA)
    mean, square = means(image), means(image * image)

    def similarity(source: np.ndarray) -> float:
        other, other_square, product = means(source), means(source * source), means(image * source)
        luminance = (2 * mean * other + small) / (mean**2 + other**2 + small)
        structure = (2 * (product - mean * other) + smaller) / (square - mean**2 + other_square - other**2 + smaller)
        return float((luminance * structure).mean())

    return sum_over_two(references, similarity)
