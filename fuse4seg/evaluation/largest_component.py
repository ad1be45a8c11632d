"""nnU-Net's usual post-processing: of all that was segmented, the largest connected component alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation


def keep_largest_component(labels: np.ndarray, foreground: Iterable[int]) -> np.ndarray:
    """Set all foreground but its largest component to background (0); voxels that touch by a corner are connected.

    Args:
        labels: Label values, shape (C, Z, Y, X); each channel by itself.
        foreground: Label values that count as one region.

    Returns:
        A new array of the same shape. Components of equal size are all kept where they are the largest.

    Source: nnU-Net's determine_postprocessing, first step.
    """
    region = tuple(foreground)
    return np.stack([remove_all_but_largest_component_from_segmentation(channel, region) for channel in labels])
