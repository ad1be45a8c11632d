"""Volumes of labels and regions in millilitres, those of a model's training set, and how far one lies off them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fuse4seg.errors import FingerprintNotFoundError
from fuse4seg.files import read_json

log = logging.getLogger(__name__)

CUBIC_MILLIMETRES_PER_MILLILITRE = 1000
#: Fewer volumes say nothing of how they spread.
FEWEST_VOLUMES = 5
#: Beside a model or preprocessed data.
FINGERPRINT = "dataset_fingerprint.json"
#: Its entry: millilitres in every labelled case, by label or region.
VOLUMES = "label_volumes"


def mask_of(labels: np.ndarray, label_or_region: int | Sequence[int]) -> np.ndarray:
    """Where a label image has one of the values.

    Example:
        >>> mask_of(np.array([0, 1, 2, 3]), (1, 3))
        array([False,  True, False,  True])
    """
    return np.isin(labels, np.atleast_1d(label_or_region))


def voxels_of(labels: np.ndarray, classes: Mapping[str, int | tuple[int, ...]]) -> dict[str, int]:
    """How many voxels each label or region has.

    Args:
        labels: Label values, any shape.
        classes: Label value, or values of a region, by name.

    Example:
        >>> voxels_of(np.array([0, 1, 1, 2]), {"core": 1, "whole": (1, 2)})
        {'core': 2, 'whole': 3}
    """
    return {name: int(np.count_nonzero(mask_of(labels, entry))) for name, entry in classes.items()}


def volumes_of(labels: np.ndarray, spacing: Sequence[float], classes: Mapping[str, int | tuple[int, ...]]) -> dict[str, float]:
    """Millilitres of each label or region.

    Args:
        labels: Label values, shape (Z, Y, X).
        spacing: Millimetres between voxels along Z, Y, X.
        classes: Label value, or values of a region, by name.

    Example:
        >>> volumes_of(np.ones((10, 10, 10), int), (1.0, 2.0, 0.5), {"tumour": 1, "whole": (1, 2), "core": 2})
        {'tumour': 1.0, 'whole': 1.0, 'core': 0.0}
    """
    voxel = voxel_volume(spacing)
    return {name: count * voxel for name, count in voxels_of(labels, classes).items()}


def voxel_volume(spacing: Sequence[float]) -> float:
    """Millilitres of a voxel, whose edges are given in millimetres.

    Example:
        >>> voxel_volume((2.0, 1.0, 0.5))
        0.001
    """
    return float(np.prod(spacing)) / CUBIC_MILLIMETRES_PER_MILLILITRE


def robust_deviation(volume: float, others: Sequence[float], *, smallest: float) -> float | None:
    r"""How many robust standard deviations the logarithm of a volume lies off those of other cases.

    .. math:: \frac{\log v - \mathrm{median} \log V}{1.4826 \; \mathrm{median} | \log V - \mathrm{median} \log V |}

    Volumes spread over orders of magnitude, so their logarithms are compared.

    Args:
        volume: In millilitres, at least 0.
        others: Volumes of the other cases, 0 where the label is absent.
        smallest: Above 0; what an absent label counts as, if every other case has it.

    Returns:
        Below 0 where it is smaller than the others. None where that cannot be told: fewer than FEWEST_VOLUMES others have the
        label, they are all alike, or it is absent here as in some of them.

    Source: Rousseeuw and Croux, Alternatives to the Median Absolute Deviation, 1993; scipy.stats.median_abs_deviation.

    Example:
        >>> found = robust_deviation(100.0, [1.0, 3.0, 10.0, 30.0, 100.0], smallest=0.001)
        >>> round(found, 2)
        1.29
    """
    present = np.log([other for other in others if other > 0])
    if len(present) < FEWEST_VOLUMES or not (volume or len(present) == len(others)):
        return None
    from scipy.stats import median_abs_deviation  # takes its time to be imported, and models without volumes need it not

    spread = median_abs_deviation(present, scale="normal")
    return float((math.log(max(volume, smallest)) - np.median(present)) / spread) if spread else None


def read_training_volumes(folder: Path) -> Mapping[str, list[float]]:
    """Millilitres in every labelled training case, by label or region; empty where the folder's fingerprint tells none.

    Args:
        folder: Of a model, or of a preprocessed dataset.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, FINGERPRINT).write_text('{"label_volumes": {"tumour": [0, 12.5]}}')
        ...     read_training_volumes(Path(folder))
        {'tumour': [0, 12.5]}
    """
    path = folder / FINGERPRINT
    if not path.is_file():
        return {}
    try:
        content = read_json(path, FingerprintNotFoundError)
    except FingerprintNotFoundError:
        log.warning("%s cannot be read: sizes are not compared with the training set's", path)
        return {}
    volumes = content.get(VOLUMES) if isinstance(content, dict) else None
    return volumes if are_volumes(volumes) else {}


def are_volumes(entry: Any) -> bool:
    """Whether a fingerprint's entry holds volumes: numbers, at least 0, by name.

    Example:
        >>> are_volumes({"tumour": [0, 12.5]}), are_volumes({"tumour": [-1]}), are_volumes(None)
        (True, False, False)
    """
    return isinstance(entry, dict) and all(
        isinstance(volumes, list) and all(type(volume) in (int, float) and 0 <= volume < math.inf for volume in volumes)
        for volumes in entry.values())
