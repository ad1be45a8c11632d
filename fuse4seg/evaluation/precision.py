"""Precision: how much of what was found is there."""

from __future__ import annotations

import math

from fuse4seg.evaluation.confusion import Confusion


def precision(counts: Confusion) -> float:
    r"""Also called positive predictive value.

    .. math:: \frac{|P \cap R|}{|P|}

    Returns:
        From 0 to 1; NaN where nothing was predicted, for then there is nothing to judge.
    """
    predicted = counts.tp + counts.fp
    return counts.tp / predicted if predicted else math.nan
