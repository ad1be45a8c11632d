"""Visibility: how well the boundaries between classes can be told on an image as a person sees it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy.ndimage import binary_dilation, convolve1d
from scipy.stats import rankdata

#: The tissue around what is labelled, as one more class: so many voxels wide.
AROUND, RING = "surrounding", 6
#: Fewer voxels of a class tell nothing, nor do classes that hardly touch.
LEAST_VOXELS, LEAST_CONTACT = 200, 20
#: Added to the scatter's diagonal, in squared grey levels: a constant channel separates nothing.
FLOOR = 0.1


def visibility(image: np.ndarray, labels: np.ndarray, inside: np.ndarray, *, classes: Mapping[str, int]) -> dict[str, float]:
    """Area under the ROC curve of the best linear discriminant of an image's channels, for each boundary between classes.

    The image is taken as a person sees it: 8 bits a channel, nothing finer than two voxels. .5 is a boundary that cannot be
    seen, 1 one that no voxel leaves in doubt. A mixture of sources at the same voxel cannot have more than the sources together;
    what has more was painted.

    Args:
        image: Grey levels in 0..255, shape (C, Z, Y, X).
        labels: Label values, shape (Z, Y, X).
        inside: Where the image is, bool, shape (Z, Y, X).
        classes: Label values by their names, without background.

    Returns:
        Values by "one|other"; those of classes with few voxels, or that hardly touch, are left out.

    Source: Fisher, The use of multiple measurements in taxonomic problems, 1936; Hanley and McNeil, The meaning and use of the
    area under a ROC curve, 1982.

    Example:
        >>> labels = np.repeat([0, 1], 500).reshape(1, 10, 100)
        >>> visibility(100.0 * labels[None], labels, np.ones_like(labels, bool), classes={"lesion": 1})
        {'surrounding|lesion': 1.0}
    """
    around = binary_dilation(labels > 0, iterations=RING) & (labels == 0) & inside
    regions = {AROUND: around, **{name: labels == value for name, value in classes.items()}}
    seen = as_seen(image)
    return {f"{one}|{other}": told_apart(seen[:, regions[one]].T, seen[:, regions[other]].T)
            for one, other in combinations(regions, 2) if _have_a_boundary(regions[one], regions[other])}


def as_seen(image: np.ndarray) -> np.ndarray:
    """Levels (C, Z, Y, X) rounded to whole ones, and blurred by 1 2 1 along Y and X.

    Example:
        >>> as_seen(np.array([0.0, 0.0, 8.4, 0.0, 0.0]).reshape(1, 1, 1, 5)).ravel()
        array([0., 2., 4., 2., 0.])
    """
    seen = np.rint(image).astype(np.float64)
    for axis in (-1, -2):
        seen = convolve1d(seen, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    return seen


def told_apart(first: np.ndarray, second: np.ndarray) -> float:
    """Area under the ROC curve of Fisher's discriminant of two sets of voxels, at least .5.

    Args:
        first: Shape (n, C).
        second: Shape (m, C).

    Example:
        >>> told_apart(np.array([[10.0], [20.0], [30.0]]), np.array([[40.0], [50.0]]))
        1.0
    """
    scatter = np.atleast_2d(np.cov(first.T) + np.cov(second.T)) / 2 + FLOOR * np.eye(first.shape[1])
    weights = np.linalg.solve(scatter, first.mean(axis=0) - second.mean(axis=0))
    ranks = rankdata(np.concatenate([first @ weights, second @ weights]))
    above = ranks[:len(first)].sum() - len(first) * (len(first) + 1) / 2
    area = float(above / (len(first) * len(second)))
    return max(area, 1 - area)


def _have_a_boundary(first: np.ndarray, second: np.ndarray) -> bool:
    if min(first.sum(), second.sum()) < LEAST_VOXELS:
        return False
    contact = 0
    for axis in range(first.ndim):
        one, other = (np.moveaxis(region, axis, 0) for region in (first, second))
        contact += np.count_nonzero(one[1:] & other[:-1]) + np.count_nonzero(other[1:] & one[:-1])
    return contact >= LEAST_CONTACT
