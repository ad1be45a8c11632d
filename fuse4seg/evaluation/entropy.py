"""EN: entropy of the grey levels."""

from __future__ import annotations

import numpy as np

from fuse4seg.colour import WHITE
from fuse4seg.evaluation.grey import grey_levels


def entropy(image: np.ndarray) -> float:
    r"""Entropy of the histogram of 256 rounded grey levels, in bits.

    .. math:: -\sum_g p_g \log_2 p_g

    Args:
        image: As :func:`~fuse4seg.evaluation.grey.grey` takes it.

    Returns:
        From 0 (one grey level) to 8.

    Source: fusion-metrics.md, "Fusion metrics".
    """
    counts = np.bincount(grey_levels(image).ravel(), minlength=WHITE + 1)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0
