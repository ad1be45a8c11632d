"""Dice: how much of a predicted and a reference segmentation overlaps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def dice(prediction: np.ndarray, reference: np.ndarray, label_or_region: int | Sequence[int], *,
         ignore_label: int | None = None) -> float:
    r"""Dice of one label, or of one region made of several labels.

    .. math:: \frac{2 |P \cap R|}{|P| + |R|}

    Args:
        prediction: Label values, any shape.
        reference: Label values, same shape.
        label_or_region: The value, or the values that make up the region.
        ignore_label: Voxels where the reference has this value count neither way.

    Returns:
        From 0 (apart) to 1 (equal). NaN where the class is in neither, for then there was nothing to find and nothing
        was found; a mean leaves such a case out and says so. 0 where only one of them has it.

    Raises:
        ValueError: The shapes differ.

    Source: the same rule as nnU-Net's compute_metrics.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, reference {reference.shape}")
    counted = np.ones(reference.shape, bool) if ignore_label is None else reference != ignore_label
    predicted = _mask(prediction, label_or_region) & counted
    wanted = _mask(reference, label_or_region) & counted
    total = int(predicted.sum()) + int(wanted.sum())
    return 2 * int((predicted & wanted).sum()) / total if total else math.nan


def _mask(labels: np.ndarray, label_or_region: int | Sequence[int]) -> np.ndarray:
    return np.isin(labels, np.atleast_1d(label_or_region))
