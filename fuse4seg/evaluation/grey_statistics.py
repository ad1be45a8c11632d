"""EN, SD, SF, MI and SCD: fusion metrics that are statistics of grey levels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fuse4seg.colour import WHITE
from fuse4seg.evaluation.grey import grey, grey_alike, grey_levels, mean_over_pairs, sum_over_two

LEVELS = WHITE + 1
#: Nats in one of each unit of information.
UNITS = {"nats": 1.0, "bits": math.log(2)}


def entropy(image: np.ndarray) -> float:
    r"""EN: entropy of the histogram of 256 rounded grey levels, in bits.

    .. math:: -\sum_g p_g \log_2 p_g

    Args:
        image: As :func:`~fuse4seg.evaluation.grey.grey` takes it.

    Returns:
        From 0 (one grey level) to 8.

    Source: fusion-metrics.md, "Fusion metrics".

    Example:
        >>> entropy(np.array([[0, 85], [170, 255]], np.uint8))
        2.0
    """
    counts = np.bincount(grey_levels(image).ravel(), minlength=LEVELS)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def standard_deviation(image: np.ndarray) -> float:
    """SD: standard deviation of the population, in grey levels.

    Args:
        image: As :func:`~fuse4seg.evaluation.grey.grey` takes it.

    Source: fusion-metrics.md, "Fusion metrics".

    Example:
        >>> standard_deviation(np.array([[100, 200], [100, 200]], np.uint8))
        50.0
    """
    return float(grey(image).std())


def spatial_frequency(image: np.ndarray) -> float:
    r"""SF: root of the mean squared differences of neighbours along rows and along columns.

    .. math:: \sqrt{\overline{(\Delta_x F)^2} + \overline{(\Delta_y F)^2}}

    Args:
        image: As :func:`~fuse4seg.evaluation.grey.grey` takes it, two voxels at least along each axis.

    Returns:
        In grey levels.

    Raises:
        ValueError: It is one voxel wide.

    Source: fusion-metrics.md, "Fusion metrics".

    Example:
        >>> spatial_frequency(np.array([[100, 200], [100, 200]], np.uint8))
        100.0
    """
    values = grey(image)
    if min(values.shape) < 2:
        raise ValueError(f"differences need two voxels along each axis, the image has shape {values.shape}")
    return float(np.sqrt(sum(np.square(np.diff(values, axis=axis)).mean() for axis in (0, 1))))


def mutual_information(fused: np.ndarray, sources: Sequence[np.ndarray], *, unit: str = "nats") -> float:
    r"""MI: mutual information of rounded grey levels, summed over two sources.

    .. math:: I(F, A) + I(F, B), \quad I(F, A) = \sum_{f, a} p_{fa} \log \frac{p_{fa}}{p_f p_a}

    Args:
        fused: Shape (Y, X), see :func:`~fuse4seg.evaluation.grey.grey`.
        sources: Two or more of that shape; of more than two, the mean over all pairs.
        unit: "nats" or "bits".

    Raises:
        ValueError: Shapes, types or ranges do not fit, or the unit is unknown.

    Source: fusion-metrics.md, "Fusion metrics".

    Example:
        >>> ct, mri = np.array([[0, 0], [255, 255]], np.uint8), np.array([[0, 255], [0, 255]], np.uint8)
        >>> round(mutual_information(ct, [ct, mri], unit="bits"), 6)  # a copy of one tells it whole, and nothing of the other
        1.0
    """
    if unit not in UNITS:
        raise ValueError(f"mutual information is given in {' or '.join(UNITS)}, not in {unit}")
    grey_alike(fused, sources)
    return sum_over_two(sources, lambda source: _information(grey_levels(fused), grey_levels(source))) / UNITS[unit]


def _information(first: np.ndarray, second: np.ndarray) -> float:
    joint = np.bincount((LEVELS * first + second).ravel(), minlength=LEVELS**2).reshape(LEVELS, LEVELS) / first.size
    there = joint > 0
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def scd(fused: np.ndarray, sources: Sequence[np.ndarray]) -> float:
    r"""SCD, sum of the correlations of differences: how much of each source lies in what the fused image has beyond the other.

    .. math:: r(A, F - B) + r(B, F - A)

    Args:
        fused: Shape (Y, X), see :func:`~fuse4seg.evaluation.grey.grey`.
        sources: Two or more of that shape; of more than two, the mean over all pairs.

    Returns:
        From -2 to 2; NaN where the fused image equals a source, or a source is constant.

    Raises:
        ValueError: Shapes, types or ranges do not fit.

    Source: fusion-metrics.md, "Fusion metrics".

    Example:
        >>> ct, mri = np.array([[0.0, 0.0], [99.0, 99.0]]), np.array([[0.0, 99.0], [0.0, 99.0]])
        >>> round(scd(ct + mri, [ct, mri]), 6)
        2.0
    """
    image, references = grey_alike(fused, sources)
    return mean_over_pairs(references, lambda one, other: _correlation(one, image - other) + _correlation(other, image - one))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    norm = math.sqrt(np.vdot(first, first) * np.vdot(second, second))
    return float(np.vdot(first, second)) / norm if norm else math.nan
