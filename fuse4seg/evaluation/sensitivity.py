"""Sensitivity: how much of what is there was found."""

from __future__ import annotations

import math

from fuse4seg.evaluation.confusion import Confusion


def sensitivity(counts: Confusion) -> float:
    r"""Also called recall.

    .. math:: \frac{|P \cap R|}{|R|}

    Returns:
        From 0 to 1; NaN where the reference is empty, for then there was nothing to find.
    """
    wanted = counts.tp + counts.fn
    return counts.tp / wanted if wanted else math.nan
