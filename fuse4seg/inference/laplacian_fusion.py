"""Fusion by Laplacian pyramids: at every scale the strongest detail of any source."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d

#: Burt and Adelson's generating kernel with a = 3/8, a binomial.
KERNEL = np.array([1, 4, 6, 4, 1]) / 16
#: Bands of detail; fewer where the coarsest would be smaller than this many voxels.
BANDS, SMALLEST = 4, 8


def laplacian_fusion(sources: np.ndarray) -> np.ndarray:
    """Of each band the coefficient of greatest magnitude, of what is left below the bands the mean.

    Args:
        sources: Shape (N, Y, X).

    Returns:
        Shape (Y, X); may leave the sources' range a little.

    Source: Burt and Adelson, The Laplacian Pyramid as a Compact Image Code, 1983; Burt and Kolczynski, 1993, for the rule.
    """
    coarse, bands = sources, []
    while len(bands) < BANDS and min(coarse.shape[1:]) >= 2 * SMALLEST:
        fine, coarse = coarse, _reduced(coarse)
        bands.append(fine - _expanded(coarse, fine.shape[1:]))
    fused = coarse.mean(axis=0)
    for band in reversed(bands):
        fused = _expanded(fused[None], band.shape[1:])[0] + strongest(band)
    return fused


def strongest(coefficients: np.ndarray) -> np.ndarray:
    """Of coefficients (N, ...) the one of greatest magnitude at each place; of equally strong ones their mean."""
    magnitude = np.abs(coefficients)
    chosen = magnitude == magnitude.max(axis=0)
    return (coefficients * chosen).sum(axis=0) / chosen.sum(axis=0)


def _smoothed(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return correlate1d(correlate1d(images, kernel, axis=1, mode="mirror"), kernel, axis=2, mode="mirror")


def _reduced(images: np.ndarray) -> np.ndarray:
    return _smoothed(images, KERNEL)[:, ::2, ::2]


def _expanded(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    spread = np.zeros((len(images), *shape), images.dtype)
    spread[:, ::2, ::2] = images
    return _smoothed(spread, 2 * KERNEL)
