"""Fusion without learning: the rules that a trained network has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pywt
from scipy.ndimage import correlate1d

from fuse4seg.colour import WHITE
from fuse4seg.networks.palette import preferences

#: Of Laplacian pyramids: Burt and Adelson's generating kernel with a = 3/8, a binomial.
KERNEL = np.array([1, 4, 6, 4, 1]) / 16
#: Bands of detail; fewer where the coarsest would be smaller than this many voxels.
BANDS, SMALLEST = 4, 8
WAVELET, LEVELS, BORDER = "db2", 4, "symmetric"


def laplacian_fusion(sources: np.ndarray) -> np.ndarray:
    """By Laplacian pyramids: of each band the coefficient of greatest magnitude, of what is left below them the mean.

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


def wavelet_fusion(sources: np.ndarray) -> np.ndarray:
    """By wavelets: of each detail band the coefficient of greatest magnitude, of the approximation the mean.

    Args:
        sources: Shape (N, Y, X).

    Returns:
        Shape (Y, X); may leave the sources' range a little.

    Source: Li, Manjunath and Mitra, Multisensor Image Fusion Using the Wavelet Transform, 1995.
    """
    levels = min(LEVELS, pywt.dwtn_max_level(sources.shape[1:], WAVELET))
    approximation, *details = pywt.wavedec2(sources, WAVELET, BORDER, levels, axes=(1, 2))
    chosen = [tuple(strongest(band) for band in bands) for bands in details]
    fused = pywt.waverec2([approximation.mean(axis=0), *chosen], WAVELET, BORDER)
    # One row or column more where the size is odd.
    return fused[:sources.shape[1], :sources.shape[2]]


def colour_formula(sources: np.ndarray) -> np.ndarray:
    """Red, green and blue as fixed mixtures of the sources: the image that a network in colour starts from, without its tint.

    Args:
        sources: Shape (N, Y, X).

    Returns:
        Shape (3, Y, X).
    """
    return np.tensordot(preferences(len(sources), 3).softmax(dim=1).double().numpy(), sources, axes=1)


#: Each makes one image (Y, X), or one in colour (3, Y, X), of sources (N, Y, X).
RULES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType({
    "max": lambda sources: sources.max(axis=0),
    "mean": lambda sources: sources.mean(axis=0),
    "laplacian": laplacian_fusion,
    "wavelet": wavelet_fusion,
    "colour": colour_formula,
})


def fuse_by_rule(sources: Sequence[np.ndarray], rule: str) -> np.ndarray:
    """Fuse grey images, or volumes slice by slice.

    Args:
        sources: Grey levels in 0..255, all of one shape (Y, X) or (Z, Y, X).
        rule: One of RULES.

    Returns:
        float64 in 0..255, shape (C, *shape of a source), C 1, or 3 in colour.
    """
    fuse, stacked = RULES[rule], np.stack(sources).astype(np.float64)
    flat = stacked.ndim == 3
    slices = stacked[:, None] if flat else stacked
    fused = np.stack([fuse(slices[:, index]) for index in range(slices.shape[1])], axis=-3)
    fused = fused if fused.ndim == 4 else fused[None]
    return np.clip(fused[:, 0] if flat else fused, 0, WHITE)


def _smoothed(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return correlate1d(correlate1d(images, kernel, axis=1, mode="mirror"), kernel, axis=2, mode="mirror")


def _reduced(images: np.ndarray) -> np.ndarray:
    return _smoothed(images, KERNEL)[:, ::2, ::2]


def _expanded(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    spread = np.zeros((len(images), *shape), images.dtype)
    spread[:, ::2, ::2] = images
    return _smoothed(spread, 2 * KERNEL)
