"""SD: standard deviation of the grey levels."""

from __future__ import annotations

import numpy as np

from fuse4seg.evaluation.grey import grey


def standard_deviation(image: np.ndarray) -> float:
    """Population standard deviation, in grey levels.

    Args:
        image: As :func:`~fuse4seg.evaluation.grey.grey` takes it.

    Source: fusion-metrics.md, "Fusion metrics".
    """
    return float(grey(image).std())
