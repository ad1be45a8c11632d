"""Overlap of a predicted and a reference segmentation: voxels counted, and Dice, IoU, sensitivity and precision of the counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fuse4seg.evaluation.volumes import mask_of


@dataclass(frozen=True)
class Confusion:
    """Counts for one label or region.

    Attributes:
        tp: In both.
        fp: Predicted alone.
        fn: In the reference alone.
        tn: In neither.
    """

    tp: int
    fp: int
    fn: int
    tn: int


def confusion(prediction: np.ndarray, reference: np.ndarray, label_or_region: int | Sequence[int], *,
              ignore_label: int | None = None) -> Confusion:
    """Count voxels.

    Args:
        prediction: Label values, any shape.
        reference: Label values, same shape.
        label_or_region: The value, or the values that make up the region.
        ignore_label: Voxels where the reference has this value count neither way.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> confusion(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), 1)
        Confusion(tp=1, fp=1, fn=1, tn=1)
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, reference {reference.shape}")
    counted = np.ones(reference.shape, bool) if ignore_label is None else reference != ignore_label
    predicted, wanted = (mask_of(labels, label_or_region) & counted for labels in (prediction, reference))
    both = int((predicted & wanted).sum())
    fp, fn = int(predicted.sum()) - both, int(wanted.sum()) - both
    return Confusion(both, fp, fn, int(counted.sum()) - both - fp - fn)


def dice(counts: Confusion) -> float:
    r"""Dice of one label, or of one region made of several labels.

    .. math:: \frac{2 |P \cap R|}{|P| + |R|}

    Returns:
        From 0 (apart) to 1 (equal). NaN where the class is in neither, for then there was nothing to find and nothing
        was found; a mean leaves such a case out and says so. 0 where only one of them has it.

    Source: the same rule as nnU-Net's compute_metrics.

    Example:
        >>> dice(Confusion(tp=3, fp=1, fn=1, tn=7))
        0.75
    """
    total = 2 * counts.tp + counts.fp + counts.fn
    return 2 * counts.tp / total if total else math.nan


def iou(counts: Confusion) -> float:
    r"""Intersection over union, also called the Jaccard index.

    .. math:: \frac{|P \cap R|}{|P \cup R|}

    Returns:
        From 0 to 1; NaN where the class is in neither, 0 where only one has it, as for Dice.

    Example:
        >>> iou(Confusion(tp=3, fp=1, fn=1, tn=7))
        0.6
    """
    union = counts.tp + counts.fp + counts.fn
    return counts.tp / union if union else math.nan


def sensitivity(counts: Confusion) -> float:
    r"""Also called recall.

    .. math:: \frac{|P \cap R|}{|R|}

    Returns:
        From 0 to 1; NaN where the reference is empty, for then there was nothing to find.

    Example:
        >>> sensitivity(Confusion(tp=3, fp=0, fn=1, tn=7))
        0.75
    """
    wanted = counts.tp + counts.fn
    return counts.tp / wanted if wanted else math.nan


def precision(counts: Confusion) -> float:
    r"""Also called positive predictive value.

    .. math:: \frac{|P \cap R|}{|P|}

    Returns:
        From 0 to 1; NaN where nothing was predicted, for then there is nothing to judge.

    Example:
        >>> precision(Confusion(tp=3, fp=3, fn=1, tn=7))
        0.5
    """
    predicted = counts.tp + counts.fp
    return counts.tp / predicted if predicted else math.nan
