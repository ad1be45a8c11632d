"""Volumes of a model's training labels, from the fingerprint that lies beside the model."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuse4seg.errors import FingerprintNotFoundError
from fuse4seg.files import read_json

log = logging.getLogger(__name__)

FINGERPRINT = "dataset_fingerprint.json"
#: Its entry: millilitres in every labelled case, by label or region.
VOLUMES = "label_volumes"


def read_training_volumes(folder: Path) -> Mapping[str, list[float]]:
    """Millilitres in every labelled training case, by label or region; empty where the folder's fingerprint tells none.

    Args:
        folder: Of a model, or of a preprocessed dataset.
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
