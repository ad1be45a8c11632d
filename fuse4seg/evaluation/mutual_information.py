"""MI: what the fused image tells about its sources."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np

from fuse4seg.colour import WHITE
from fuse4seg.evaluation.grey import grey_alike, grey_levels, sum_over_two

#: Nats in one of each unit.
UNITS = {"nats": 1.0, "bits": log(2)}
LEVELS = WHITE + 1


def mutual_information(fused: np.ndarray, sources: Sequence[np.ndarray], *, unit: str = "nats") -> float:
    r"""Mutual information of rounded grey levels, summed over two sources.

    .. math:: I(F, A) + I(F, B), \quad I(F, A) = \sum_{f, a} p_{fa} \log \frac{p_{fa}}{p_f p_a}

    Args:
        fused: Shape (Y, X), see :func:`~fuse4seg.evaluation.grey.grey`.
        sources: Two or more of that shape; of more than two, the mean over all pairs.
        unit: "nats" or "bits".

    Raises:
        ValueError: Shapes, types or ranges do not fit, or the unit is unknown.

    Source: fusion-metrics.md, "Fusion metrics".
    """
    if unit not in UNITS:
        raise ValueError(f"mutual information is given in {' or '.join(UNITS)}, not in {unit}")
    grey_alike(fused, sources)
    return sum_over_two(sources, lambda source: _of_pair(grey_levels(fused), grey_levels(source))) / UNITS[unit]


def _of_pair(first: np.ndarray, second: np.ndarray) -> float:
    joint = np.bincount((LEVELS * first + second).ravel(), minlength=LEVELS**2).reshape(LEVELS, LEVELS) / first.size
    there = joint > 0
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())
