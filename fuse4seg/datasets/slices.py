"""Volumes as 8-bit slices."""

from __future__ import annotations

import numpy as np

#: Percentiles of the brain that become the darkest and the brightest grey level.
PERCENTILES = (0.05, 99.95)
RULE = (f"0 outside the brain (where all modalities are 0); inside, 1..255 linear between the brain's {PERCENTILES[0]} and "
        f"{PERCENTILES[1]} percentiles of the modality, clipped")
#: Axes of a volume (Z, Y, X) in patient orientation LPS, by the plane that is cut across them.
AXES = {"axial": 0, "coronal": 1, "sagittal": 2}


def to_8_bit(voxels: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Grey levels of a volume by RULE.

    Args:
        voxels: Any finite intensities.
        brain: bool of the same shape.

    Returns:
        uint8 of that shape; a brain of one intensity becomes 1.
    """
    levels = np.zeros(voxels.shape, np.uint8)
    if not brain.any():
        return levels
    low, high = np.percentile(voxels[brain], PERCENTILES)
    scaled = (voxels[brain].astype(np.float64) - low) / (high - low) if high > low else np.zeros(int(brain.sum()))
    levels[brain] = np.rint(1 + 254 * np.clip(scaled, 0, 1))
    return levels


def telling_slices(brain: np.ndarray, axis: int) -> list[int]:
    """Indices along ``axis`` of the slices that hold brain."""
    return np.flatnonzero(brain.any(axis=tuple(other for other in range(brain.ndim) if other != axis))).tolist()
