"""Fusion without learning: the rules that a trained network has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from fuse4seg.colour import WHITE
from fuse4seg.inference.laplacian_fusion import laplacian_fusion
from fuse4seg.inference.wavelet_fusion import wavelet_fusion
from fuse4seg.networks.palette import preferences


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
