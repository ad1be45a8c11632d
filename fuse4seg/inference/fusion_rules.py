"""Fusion without learning: the rules that a trained network has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from fuse4seg.datasets.grey_images import WHITE
from fuse4seg.inference.laplacian_fusion import laplacian_fusion
from fuse4seg.inference.wavelet_fusion import wavelet_fusion

#: Each makes one image (Y, X) of sources (N, Y, X).
RULES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType({
    "max": lambda sources: sources.max(axis=0),
    "mean": lambda sources: sources.mean(axis=0),
    "laplacian": laplacian_fusion,
    "wavelet": wavelet_fusion,
})


def fuse_by_rule(sources: Sequence[np.ndarray], rule: str) -> np.ndarray:
    """Fuse grey images, or volumes slice by slice.

    Args:
        sources: Grey levels in 0..255, all of one shape (Y, X) or (Z, Y, X).
        rule: One of RULES.

    Returns:
        float64 of that shape, in 0..255.
    """
    fuse, stacked = RULES[rule], np.stack(sources).astype(np.float64)
    fused = fuse(stacked) if stacked.ndim == 3 else np.stack([fuse(stacked[:, index]) for index in range(stacked.shape[1])])
    return np.clip(fused, 0, WHITE)
