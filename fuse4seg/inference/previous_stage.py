"""Segmentations of a cascade's previous stage, as the next stage is given them: each on its case's grid, with known labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from fuse4seg.datasets.images import Geometry, geometry_difference, read_image
from fuse4seg.datasets.raw import label_values
from fuse4seg.errors import PreviousStageError, UnreadableImageError

#: Folder beside the output, where the previous stage was predicted first.
PREVIOUS_STAGE = "previous_stage"
SHOWN_VALUES = 5


def require_segmentation(path: Path, case: str) -> None:
    """Make sure that a case has a segmentation of the previous stage.

    Raises:
        PreviousStageError: There is no such file.
    """
    if not path.is_file():
        raise PreviousStageError(case, f"there is no segmentation of the previous stage: expected {path}. Add it, or leave out "
                                       f"-prev_stage_predictions, and it is made.")


def previous_labels(given: Path | np.ndarray, case: str, *, expected: Geometry, reader: type[BaseReaderWriter],
                    dataset_json: dict[str, Any]) -> np.ndarray:
    """Labels of the previous stage, once it is sure that they can be used.

    Args:
        given: A file, or label values of shape (Z, Y, X).
        case: Its name.
        expected: Geometry of the case's images.
        reader: nnU-Net's reader of the dataset's files.
        dataset_json: The model's.

    Returns:
        Label values, int16, shape (1, Z, Y, X).

    Raises:
        PreviousStageError: They are missing, unreadable, on another grid, or not among the dataset's labels.
    """
    if isinstance(given, np.ndarray):
        name, labels, difference = "the segmentation of the previous stage", given[None], None
        if given.shape != tuple(expected.shape):
            difference = f"shape {given.shape} instead of {tuple(expected.shape)}"
    else:
        require_segmentation(given, case)
        try:
            image = read_image(given, reader)
        except UnreadableImageError as error:
            raise PreviousStageError(case, str(error)) from error
        name, labels, difference = str(given), image.voxels, geometry_difference(image.geometry, expected)
    if difference:
        raise PreviousStageError(case, f"{name} has {difference} in the case's first channel. Resample it to that grid.")
    known = label_values(dataset_json)
    unknown = [f"{value:g}" for value in np.unique(labels) if value not in known]
    if unknown:
        values = ", ".join(unknown[:SHOWN_VALUES]) + (", ..." if len(unknown) > SHOWN_VALUES else "")
        raise PreviousStageError(case, f"{name} holds the value {values}, which the model's dataset.json does not name. Give "
                                       f"what the previous stage of this model predicted.")
    return labels.astype(np.int16)
