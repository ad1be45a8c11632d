"""nnU-Net's foreground intensity statistics, from how often each voxel is drawn.

nnU-Net draws 10^8 foreground intensities per channel with replacement, ships them between processes and sorts them. The
same draws counted per voxel give the same statistics, to rounding, from as many numbers as there are foreground voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SEED = 1234
CHUNK = 1 << 18


class Draws(NamedTuple):
    """Intensities of one channel's foreground, and how often each was drawn; both of shape (V,)."""

    intensities: NDArray[np.float32]
    counts: NDArray[np.int64]


def draw_foreground(images: NDArray, segmentation: NDArray, *, draws: int) -> list[Draws]:
    """Draw as nnU-Net's ``collect_foreground_intensities`` does, with its seed and in its order.

    Args:
        images: Raw images, shape (N, *S).
        segmentation: Label, shape (1, *S); foreground is above 0.
        draws: Number of draws with replacement.

    Returns:
        One entry per channel, empty for a case without foreground.
    """
    foreground = segmentation[0] > 0
    voxels = int(foreground.sum())
    random = np.random.RandomState(SEED)
    drawn = []
    for image in images:
        counts = _count_draws(random, voxels, draws)
        drawn.append(Draws(image[foreground][counts > 0], counts[counts > 0]))
    return drawn


def foreground_statistics(cases: Sequence[Draws]) -> dict[str, float]:
    """nnU-Net's properties of one channel: mean, median, std, min, max and the 0.5 and 99.5 percentiles.

    Args:
        cases: The channel's draws in each case, at least one of them not empty.
    """
    intensities, counts = (np.concatenate(parts) for parts in zip(*cases, strict=True))
    order = np.argsort(intensities, kind="stable")
    intensities, counts = intensities[order].astype(np.float64), counts[order]
    mean = float(np.average(intensities, weights=counts))
    variance = float(np.average((intensities - mean) ** 2, weights=counts))
    low, median, high = _percentiles(intensities, counts, (0.5, 50.0, 99.5))
    return {"mean": mean, "median": median, "std": variance ** 0.5, "min": float(intensities[0]),
            "max": float(intensities[-1]), "percentile_99_5": high, "percentile_00_5": low}


def _count_draws(random: np.random.RandomState, voxels: int, draws: int) -> NDArray[np.int64]:
    counts = np.zeros(voxels, np.int64)
    for start in range(0, draws if voxels else 0, CHUNK):
        counts += np.bincount(random.choice(voxels, min(CHUNK, draws - start)), minlength=voxels)
    return counts


def _percentiles(intensities: NDArray, counts: NDArray, percents: Sequence[float]) -> list[float]:
    """Linear percentiles (numpy's default) of sorted ``intensities``, each repeated ``counts`` times."""
    last = np.cumsum(counts)
    place = np.asarray(percents) / 100 * (last[-1] - 1)
    below = np.floor(place)
    lower, upper = (intensities[np.searchsorted(last, rank, side="right")] for rank in (below, np.ceil(place)))
    return (lower + (place - below) * (upper - lower)).tolist()
