"""Doubt about a case: what its segmentation gives away without a reference, and one number to sort cases by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import find_objects
from scipy.ndimage import label as label_components

from fuse4seg.datasets.dataset_json import foreground_classes
from fuse4seg.evaluation.overlap import mask_of
from fuse4seg.evaluation.volumes import robust_deviation, volumes_of, voxel_volume
from fuse4seg.inference.entropy import largest_entropy
from fuse4seg.inference.model import ModelDescription

#: Robust standard deviations within which a size is no reason to doubt.
USUAL = 3.0


def facts_of(labels: np.ndarray, spacing: Sequence[float], description: ModelDescription, *, entropy: float | None,
             disagreement: float | None) -> dict[str, Any]:
    """What the record of a run tells of a segmented case.

    Args:
        labels: As written, shape (Z, Y, X).
        spacing: Millimetres along Z, Y, X.
        description: The model's, with the volumes of its training set.
        entropy: Mean over the boundary in nats, see :class:`~fuse4seg.inference.entropy.BoundaryEntropy`; None without one.
        disagreement: See :class:`~fuse4seg.inference.disagreement.Disagreement`; None where nothing can be compared.

    Returns:
        "volumes", in millilitres by label or region; and "doubt": entropy, disagreement, components (touching by a corner is
        enough) and size by label or region (see :func:`~fuse4seg.evaluation.volumes.robust_deviation`), and score.
    """
    classes = foreground_classes(description.dataset_json)
    volumes, voxel = volumes_of(labels, spacing, classes), voxel_volume(spacing)
    size = {name: robust_deviation(volume, description.volumes.get(name, ()), smallest=voxel) for name, volume in volumes.items()}
    manager = description.label_manager
    largest = largest_entropy(manager.num_segmentation_heads, regions=manager.has_regions)
    score = doubt_score(None if entropy is None else entropy / largest, disagreement, size)
    return {"volumes": volumes, "doubt": {"entropy": entropy, "disagreement": disagreement,
                                          "components": components_of(labels, classes), "size": size, "score": score}}


def components_of(labels: np.ndarray, classes: Mapping[str, int | tuple[int, ...]]) -> dict[str, int]:
    """Number of connected components of each label or region; voxels that touch by a corner are connected.

    Args:
        labels: Label values, shape (Z, Y, X).
        classes: Label value, or values of a region, by name.

    Source: scipy.ndimage.label.

    Example:
        >>> components_of(np.array([[[1, 0, 1, 2]]]), {"core": 1, "whole": (1, 2)})
        {'core': 2, 'whole': 2}
    """
    inside = find_objects((labels > 0).view(np.uint8))
    found = labels[inside[0]] if inside else labels[:0]
    touching = np.ones((3,) * labels.ndim)
    return {name: int(label_components(mask_of(found, entry), touching)[1]) for name, entry in classes.items()}


def doubt_score(entropy: float | None, disagreement: float | None, size: Mapping[str, float | None]) -> float:
    r"""One number to sort cases by; the higher, the more there is to doubt.

    .. math:: 1 - (1 - D) (1 - S), \quad S = \max(0, 1 - 3 / \max_c |z_c|)

    Where nothing could be compared, the entropy stands in for D. Beside D it would dilute it: of faint lesions all boundaries
    are uncertain, the rightly drawn ones, too. Sizes within three deviations would dilute both.

    Args:
        entropy: Mean over the boundary over the largest there can be, in [0, 1].
        disagreement: D, in [0, 1].
        size: z by label or region, in robust standard deviations.

    Returns:
        From 0 to 1; what is None counts as no doubt.

    Example:
        >>> doubt_score(0.5, 0.2, {"core": None, "whole": -2.0}), doubt_score(0.5, 0.2, {"core": None, "whole": -6.0})
        (0.2, 0.6)
    """
    largest = max((abs(deviation) for deviation in size.values() if deviation is not None), default=0.0)
    unusual = 1 - USUAL / max(largest, USUAL)
    apart = entropy if disagreement is None else disagreement
    return 1 - (1 - (apart or 0.0)) * (1 - unusual)
