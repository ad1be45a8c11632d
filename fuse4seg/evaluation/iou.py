"""IoU: intersection over union of a predicted and a reference segmentation."""

from __future__ import annotations

import math

from fuse4seg.evaluation.confusion import Confusion


def iou(counts: Confusion) -> float:
    r"""Intersection over union, also called the Jaccard index.

    .. math:: \frac{|P \cap R|}{|P \cup R|}

    Returns:
        From 0 to 1; NaN where the class is in neither, 0 where only one has it, as for Dice.
    """
    union = counts.tp + counts.fp + counts.fn
    return counts.tp / union if union else math.nan
