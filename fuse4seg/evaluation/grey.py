"""Grey images as the fusion metrics take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from scipy.ndimage import correlate1d

from fuse4seg.colour import WHITE


def grey(image: np.ndarray) -> np.ndarray:
    """A grey image as float64.

    Args:
        image: Shape (Y, X), uint8 or float, in 0..255.

    Raises:
        ValueError: It has another shape or type, is empty, or leaves the range.

    Example:
        >>> grey(np.array([[0, 128, 255]], np.uint8))
        array([[  0., 128., 255.]])
    """
    if image.ndim != 2 or not image.size:
        raise ValueError(f"a grey image has two axes, this one has shape {image.shape}")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"grey images are uint8 or float in 0..255, this one is {image.dtype}")
    values = image.astype(np.float64)
    if not (values.min() >= 0 and values.max() <= WHITE):
        raise ValueError(f"grey levels lie in 0..255, these in {values.min():g}..{values.max():g}")
    return values


def grey_levels(image: np.ndarray) -> np.ndarray:
    """Rounded grey levels of an image as :func:`grey` takes it, int64.

    Example:
        >>> grey_levels(np.array([[0.4, 127.6, 255.0]]))
        array([[  0, 128, 255]])
    """
    return np.rint(grey(image)).astype(np.int64)


def grey_alike(fused: np.ndarray, sources: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """A fused image and its sources, checked.

    Raises:
        ValueError: There are fewer than two sources, shapes differ, or one is no grey image.

    Example:
        >>> image, references = grey_alike(np.zeros((4, 5)), [np.ones((4, 5)), np.ones((4, 5))])
        >>> image.shape, len(references)
        ((4, 5), 2)
    """
    if len(sources) < 2:
        raise ValueError(f"fusion has two sources at least, got {len(sources)}")
    for source in sources:
        if source.shape != fused.shape:
            raise ValueError(f"the fused image has shape {fused.shape}, a source {source.shape}")
    return grey(fused), [grey(source) for source in sources]


def mean_over_pairs(sources: Sequence[np.ndarray], value: Callable[[np.ndarray, np.ndarray], float]) -> float:
    """Mean of a metric of two sources over all pairs (fusion-metrics.md, "Fusion metrics": more than two sources).

    Example:
        >>> mean_over_pairs([np.array(1.0), np.array(2.0), np.array(6.0)], lambda one, other: float(one + other))
        6.0
    """
    return float(np.mean([value(first, second) for first, second in combinations(sources, 2)]))


def sum_over_two(sources: Sequence[np.ndarray], value: Callable[[np.ndarray], float]) -> float:
    """Sum of a metric of one source over two of them, as a mean over all pairs: 2 / N of the sum over N.

    Example:
        >>> sum_over_two([np.array(1.0), np.array(2.0), np.array(6.0)], float)
        6.0
    """
    return float(2 * np.mean([value(source) for source in sources]))


def gaussian_means(image: np.ndarray, *, radius: int, sigma: float) -> np.ndarray:
    """Gaussian-weighted mean of every window of 2 ``radius`` + 1 voxels along each axis that lies inside a grey image (Y, X).

    Example:
        >>> gaussian_means(np.full((11, 12), 7.0), radius=5, sigma=1.5).round(6)
        array([[7., 7.]])
    """
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma)**2)
    weights /= weights.sum()
    inside = slice(radius, -radius)
    return correlate1d(correlate1d(image, weights, axis=0)[inside], weights, axis=1)[:, inside]
