"""HD95: how far apart the surfaces of a predicted and a reference segmentation are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch

PERCENTILE = 95


def hausdorff_95(predicted: np.ndarray, wanted: np.ndarray, *, spacing: Sequence[float]) -> float:
    """The larger of both directions' 95th percentiles of the distances from each surface voxel to the other surface.

    Args:
        predicted: bool, shape (Y, X) or (Z, Y, X); a volume of one slice counts as that slice.
        wanted: bool, same shape.
        spacing: Millimetres between voxels, in the order of the axes.

    Returns:
        Millimetres, 0 or more. NaN where one of them is empty: there is no surface to measure to, and no distance is made up.

    Source: MONAI's compute_hausdorff_distance.

    Example:
        >>> predicted, wanted = np.zeros((2, 8, 8), bool)
        >>> predicted[2:5, 2:5] = wanted[2:5, 3:6] = True
        >>> hausdorff_95(predicted, wanted, spacing=(1.0, 2.0))  # one voxel of 2 mm aside
        2.0
    """
    if not (predicted.any() and wanted.any()):
        return math.nan
    from monai.metrics import compute_hausdorff_distance

    if predicted.ndim == 3 and len(predicted) == 1:
        predicted, wanted, spacing = predicted[0], wanted[0], spacing[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI's own, about its own use of itself
        masks = [torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (predicted, wanted)]
        distance = compute_hausdorff_distance(*masks, include_background=True, percentile=PERCENTILE,
                                              spacing=list(map(float, spacing)))
    return float(distance)
