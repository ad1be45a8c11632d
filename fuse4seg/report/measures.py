"""Numbers of a case in a report: volumes, visibility of boundaries and, against true labels, Dice and HD95."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import find_objects

from fuse4seg.evaluation.folders import Scores, score_class
from fuse4seg.evaluation.visibility import RING, visibility
from fuse4seg.evaluation.volumes import volumes_of
from fuse4seg.report.case_images import CaseImages

Classes = Mapping[str, int | tuple[int, ...]]
#: Voxels around labels that visibility looks at: the ring, and what blurs into it.
MARGIN = RING + 2


def volumes_ml(images: CaseImages, classes: Classes) -> dict[str, float]:
    """Millilitres of each predicted class; empty without a segmentation.

    Args:
        images: Of the case.
        classes: Label values by name.
    """
    if images.labels is None:
        return {}
    return volumes_of(images.labels, images.spacing, classes)


def visible_boundaries(images: CaseImages, names: Mapping[int, str]) -> dict[str, float]:
    """:func:`~fuse4seg.evaluation.visibility.visibility` on the fused image, of the true labels where there are some.

    Args:
        images: Of the case.
        names: Of the label values.

    Returns:
        Areas from .5 to 1 by "one|other"; empty where there are no labels or no boundary is long enough.
    """
    labels = images.labels if images.reference is None else images.reference
    if labels is None or not labels.any():
        return {}
    # The ring alone counts, and a whole body takes minutes.
    found = find_objects((labels > 0).astype(np.uint8))[0]
    around = tuple(slice(max(part.start - MARGIN, 0), part.stop + MARGIN) for part in found)
    classes = {name: value for value, name in names.items()}
    return visibility(images.fused[(slice(None), *around)], labels[around], images.inside[around], classes=classes)


def scores(images: CaseImages, classes: Classes, *, ignored: int | None = None) -> dict[str, Scores]:
    """Dice and HD95 of each class; empty without true labels.

    Args:
        images: Of the case.
        classes: Label values by name.
        ignored: Value of the true labels that is not scored.
    """
    if images.labels is None or images.reference is None:
        return {}
    return {name: score_class(images.labels, images.reference, entry, spacing=images.spacing, ignored=ignored)
            for name, entry in classes.items()}
