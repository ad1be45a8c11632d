"""Volumes of labels and regions in millilitres, and how far one lies off those of a training set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import median_abs_deviation

from fuse4seg.evaluation.overlap import mask_of

CUBIC_MILLIMETRES_PER_MILLILITRE = 1000
#: Fewer volumes say nothing of how they spread.
FEWEST_VOLUMES = 5


def voxels_of(labels: np.ndarray, classes: Mapping[str, int | tuple[int, ...]]) -> dict[str, int]:
    """How many voxels each label or region has.

    Args:
        labels: Label values, any shape.
        classes: Label value, or values of a region, by name.

    Example:
        >>> voxels_of(np.array([0, 1, 1, 2]), {"core": 1, "whole": (1, 2)})
        {'core': 2, 'whole': 3}
    """
    return {name: int(np.count_nonzero(mask_of(labels, entry))) for name, entry in classes.items()}


def volumes_of(labels: np.ndarray, spacing: Sequence[float], classes: Mapping[str, int | tuple[int, ...]]) -> dict[str, float]:
    """Millilitres of each label or region.

    Args:
        labels: Label values, shape (Z, Y, X).
        spacing: Millimetres between voxels along Z, Y, X.
        classes: Label value, or values of a region, by name.

    Example:
        >>> volumes_of(np.ones((10, 10, 10), int), (1.0, 2.0, 0.5), {"tumour": 1, "whole": (1, 2), "core": 2})
        {'tumour': 1.0, 'whole': 1.0, 'core': 0.0}
    """
    voxel = voxel_volume(spacing)
    return {name: count * voxel for name, count in voxels_of(labels, classes).items()}


def voxel_volume(spacing: Sequence[float]) -> float:
    """Millilitres of a voxel, whose edges are given in millimetres.

    Example:
        >>> voxel_volume((2.0, 1.0, 0.5))
        0.001
    """
    return float(np.prod(spacing)) / CUBIC_MILLIMETRES_PER_MILLILITRE


def robust_deviation(volume: float, others: Sequence[float], *, smallest: float) -> float | None:
    r"""How many robust standard deviations the logarithm of a volume lies off those of other cases.

    .. math:: \frac{\log v - \mathrm{median} \log V}{1.4826 \; \mathrm{median} | \log V - \mathrm{median} \log V |}

    Volumes spread over orders of magnitude, so their logarithms are compared.

    Args:
        volume: In millilitres, at least 0.
        others: Volumes of the other cases, 0 where the label is absent.
        smallest: Above 0; what an absent label counts as, if every other case has it.

    Returns:
        Below 0 where it is smaller than the others. None where that cannot be told: fewer than FEWEST_VOLUMES others have the
        label, they are all alike, or it is absent here as in some of them.

    Source: Rousseeuw and Croux, Alternatives to the Median Absolute Deviation, 1993; scipy.stats.median_abs_deviation.

    Example:
        >>> found = robust_deviation(100.0, [1.0, 3.0, 10.0, 30.0, 100.0], smallest=0.001)
        >>> round(found, 2)
        1.29
    """
    present = np.log([other for other in others if other > 0])
    if len(present) < FEWEST_VOLUMES or not (volume or len(present) == len(others)):
        return None
    spread = median_abs_deviation(present, scale="normal")
    return float((math.log(max(volume, smallest)) - np.median(present)) / spread) if spread else None
