"""Dice: how much of a predicted and a reference segmentation overlaps."""

from __future__ import annotations

import math

from fuse4seg.evaluation.confusion import Confusion


def dice(counts: Confusion) -> float:
    r"""Dice of one label, or of one region made of several labels.

    .. math:: \frac{2 |P \cap R|}{|P| + |R|}

    Returns:
        From 0 (apart) to 1 (equal). NaN where the class is in neither, for then there was nothing to find and nothing
        was found; a mean leaves such a case out and says so. 0 where only one of them has it.

    Source: the same rule as nnU-Net's compute_metrics.
    """
    total = 2 * counts.tp + counts.fp + counts.fn
    return 2 * counts.tp / total if total else math.nan
