"""Voxels counted by what was predicted and what is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, reference {reference.shape}")
    counted = np.ones(reference.shape, bool) if ignore_label is None else reference != ignore_label
    predicted, wanted = (mask_of(labels, label_or_region) & counted for labels in (prediction, reference))
    both = int((predicted & wanted).sum())
    fp, fn = int(predicted.sum()) - both, int(wanted.sum()) - both
    return Confusion(both, fp, fn, int(counted.sum()) - both - fp - fn)


def mask_of(labels: np.ndarray, label_or_region: int | Sequence[int]) -> np.ndarray:
    """Where a label image has one of the values."""
    return np.isin(labels, np.atleast_1d(label_or_region))
