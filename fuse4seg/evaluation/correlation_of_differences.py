"""SCD: sum of the correlations of differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fuse4seg.evaluation.grey import grey_alike, mean_over_pairs


def correlation_of_differences(fused: np.ndarray, sources: Sequence[np.ndarray]) -> float:
    r"""How much of each source lies in what the fused image has beyond the other.

    .. math:: r(A, F - B) + r(B, F - A)

    Args:
        fused: Shape (Y, X), see :func:`~fuse4seg.evaluation.grey.grey`.
        sources: Two or more of that shape; of more than two, the mean over all pairs.

    Returns:
        From -2 to 2; NaN where the fused image equals a source, or a source is constant.

    Raises:
        ValueError: Shapes, types or ranges do not fit.

    Source: fusion-metrics.md, "Fusion metrics".
    """
    image, references = grey_alike(fused, sources)
    return mean_over_pairs(references, lambda one, other: _correlation(one, image - other) + _correlation(other, image - one))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    norm = math.sqrt(np.vdot(first, first) * np.vdot(second, second))
    return float(np.vdot(first, second)) / norm if norm else math.nan
