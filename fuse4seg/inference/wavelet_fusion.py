"""Fusion by wavelets: the strongest detail of any source at every scale and orientation."""

from __future__ import annotations

import numpy as np
import pywt

from fuse4seg.inference.laplacian_fusion import strongest

WAVELET, LEVELS, BORDER = "db2", 4, "symmetric"


def wavelet_fusion(sources: np.ndarray) -> np.ndarray:
    """Of each detail band the coefficient of greatest magnitude, of the approximation the mean.

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
