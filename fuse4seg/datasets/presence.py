"""Which channels a case has: kept with the preprocessed case, never guessed from its voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: Entry of a preprocessed case's properties, which nnU-Net keeps beside its voxels; a case without it has every channel.
PRESENT = "present"


def with_absent(voxels: np.ndarray, present: Sequence[bool]) -> np.ndarray:
    """All channels of a case from those that are there: absent ones are 0.

    Args:
        voxels: Channels that the case has, shape (C, Z, Y, X).
        present: For each channel of the dataset whether the case has it, C times True.

    Returns:
        Shape (N, Z, Y, X); ``voxels`` itself where nothing is absent.

    Example:
        >>> with_absent(np.ones((2, 1, 1, 1)), [True, False, True]).ravel()
        array([1., 0., 1.])
    """
    if all(present):
        return voxels
    every = np.zeros((len(present), *voxels.shape[1:]), voxels.dtype)
    every[list(present)] = voxels
    return every


def presence_of(properties: Mapping[str, Any], channels: int) -> tuple[bool, ...]:
    """For each of so many channels whether a preprocessed case has it, by its properties.

    Example:
        >>> presence_of({}, 2), presence_of({"present": [True, False]}, 2)
        ((True, True), (True, False))
    """
    return tuple(map(bool, properties.get(PRESENT, [True] * channels)))
