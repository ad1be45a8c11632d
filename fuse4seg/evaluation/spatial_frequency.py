"""SF: spatial frequency."""

from __future__ import annotations

import numpy as np

from fuse4seg.evaluation.grey import grey


def spatial_frequency(image: np.ndarray) -> float:
    r"""Root of the mean squared differences of neighbours along rows and along columns.

    .. math:: \sqrt{\overline{(\Delta_x F)^2} + \overline{(\Delta_y F)^2}}

    Args:
        image: As :func:`~fuse4seg.evaluation.grey.grey` takes it, two voxels at least along each axis.

    Returns:
        In grey levels.

    Raises:
        ValueError: It is one voxel wide.

    Source: fusion-metrics.md, "Fusion metrics".
    """
    values = grey(image)
    if min(values.shape) < 2:
        raise ValueError(f"differences need two voxels along each axis, the image has shape {values.shape}")
    return float(np.sqrt(sum(np.square(np.diff(values, axis=axis)).mean() for axis in (0, 1))))
