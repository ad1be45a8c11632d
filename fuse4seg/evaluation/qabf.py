"""Qabf: how much of the sources' edges is in the fused image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import sobel

from fuse4seg.evaluation.grey import grey_alike, mean_over_pairs

#: Of the sigmoids, gamma / (1 + exp(kappa (value - sigma))), that the preservation of either goes through.
STRENGTH, ORIENTATION = (0.9994, -15, 0.5), (0.9879, -22, 0.8)


class Edges(NamedTuple):
    """Strength of the edge at each voxel, and its orientation from -pi/2 to pi/2."""

    strength: np.ndarray
    orientation: np.ndarray


def qabf(fused: np.ndarray, sources: Sequence[np.ndarray]) -> float:
    r"""Preservation of edge strength and orientation, weighted by the strength of the sources' edges.

    .. math:: \frac{\sum Q^{AF} g_A + Q^{BF} g_B}{\sum g_A + g_B}

    Sobel edges; outside the image all is 0.

    Args:
        fused: Shape (Y, X), see :func:`~fuse4seg.evaluation.grey.grey`.
        sources: Two or more of that shape; of more than two, the mean over all pairs.

    Returns:
        From 0 to 1; NaN where the sources have no edges.

    Raises:
        ValueError: Shapes, types or ranges do not fit.

    Source: fusion-metrics.md, "Fusion metrics" (Xydeas and Petrovic, Objective Image Fusion Performance Measure, 2000).

    Example:
        >>> ct, mri = np.random.default_rng(0).integers(0, 256, (2, 48, 48), dtype=np.uint8)
        >>> round(qabf(ct, [ct, ct]), 3), round(qabf(ct, [ct, mri]), 3)
        (0.975, 0.567)
    """
    image, references = grey_alike(fused, sources)
    found = _edges(image)
    kept = [(np.vdot(edges.strength, _preservation(edges, found)), edges.strength.sum()) for edges in map(_edges, references)]

    def of_pair(one: tuple[float, float], other: tuple[float, float]) -> float:
        weight = one[1] + other[1]
        return (one[0] + other[0]) / weight if weight else math.nan

    return mean_over_pairs(kept, of_pair)


def _edges(image: np.ndarray) -> Edges:
    down, across = (sobel(image, axis=axis, mode="constant") for axis in (0, 1))
    upright = across == 0
    orientation = np.arctan(np.divide(down, across, where=~upright, out=np.zeros_like(down)))
    return Edges(np.hypot(down, across), np.where(upright, np.pi / 2, orientation))


def _preservation(source: Edges, fused: Edges) -> np.ndarray:
    weaker, stronger = np.minimum(source.strength, fused.strength), np.maximum(source.strength, fused.strength)
    relative = np.divide(weaker, stronger, where=stronger > 0, out=np.ones_like(weaker))
    aligned = 1 - np.abs(source.orientation - fused.orientation) / (np.pi / 2)
    return _sigmoid(relative, *STRENGTH) * _sigmoid(aligned, *ORIENTATION)


def _sigmoid(value: np.ndarray, gamma: float, kappa: float, sigma: float) -> np.ndarray:
    return gamma / (1 + np.exp(kappa * (value - sigma)))
