"""A case as the network takes it: read once, checked, and preprocessed by nnU-Net, a cascade's previous labels with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from fuse4seg.datasets.alignment import Alignment, case_alignment, planned_information
from fuse4seg.datasets.dataset_json import channels_of_8_bits, label_values
from fuse4seg.datasets.images import Geometry, geometry_difference, geometry_of, read_image
from fuse4seg.datasets.integrity import read_sound_images
from fuse4seg.datasets.presence import with_absent
from fuse4seg.datasets.raw import Case
from fuse4seg.errors import FaultyImageError, UnreadableImageError, UnsuitableImageError
from fuse4seg.inference.input_space import resampled
from fuse4seg.inference.model import ModelDescription
from fuse4seg.inference.run_record import checksums
from fuse4seg.model_errors import PreviousStageError
from fuse4seg.nnunet_output import logged_prints

#: Folder beside the output, where the previous stage was predicted first.
PREVIOUS_STAGE = "previous_stage"
SHOWN_VALUES = 5
#: Times that a case's spacing may be the model's, or the model's the case's.
MOST_RESAMPLED = 20


@dataclass(frozen=True)
class Prepared:
    """A case as the network takes it.

    Attributes:
        case: Its name and files.
        channels: Shape (C, Z, Y, X); of fused images (folds, C, Z, Y, X).
        properties: nnU-Net's.
        sources: Checksums of the files, by name.
        seconds: That it took.
        alignment: Where its modalities lie, by their names.
    """

    case: Case
    channels: np.ndarray
    properties: dict[str, Any]
    sources: dict[str, str]
    seconds: float
    alignment: dict[str, Alignment] = field(default_factory=dict)


def sources_of(case: Case, previous: Path | None, ending: str) -> tuple[Path, ...]:
    """What a case is predicted from: its images and, last, the segmentation of a cascade's previous stage."""
    return (*case.files, *([] if previous is None else [previous / f"{case.name}{ending}"]))


def prepare_case(case: Case, description: ModelDescription, previous: Path | None, examine: bool) -> Prepared:
    """Read and preprocess a case.

    Args:
        case: Its name and files.
        description: The model's.
        previous: Folder of segmentations of a cascade's previous stage; None without one.
        examine: Whether its modalities are aligned.

    Raises:
        FaultyImageError, PreviousStageError: See :func:`preprocessed_images`.
    """
    begin = time.perf_counter()
    files = sources_of(case, previous, description.file_ending)
    sources = checksums(files)
    given, properties = read_case(case, description)
    alignment = case_alignment(given[0], properties["spacing"], case, dataset_json=description.dataset_json,
                               usual=planned_information(description.plans.plans)) if examine else {}
    channels, properties = preprocessed_case(given, properties, case, description,
                                             previous=None if previous is None else files[-1])
    return Prepared(case, channels, properties, sources, time.perf_counter() - begin, alignment)


def preprocessed_images(case: Case, description: ModelDescription, *,
                        previous: Path | np.ndarray | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Channels (C, Z, Y, X) and nnU-Net's properties of a case with one existing image at least.

    Args:
        case: The case.
        description: The model's.
        previous: Segmentation of a cascade's previous stage on the case's grid, a file or label values (Z, Y, X). Its one-hot
            channels lie behind the modalities; without it there are none, which is enough to fuse.

    Raises:
        FaultyImageError: An image is unreadable, constant, NaN or infinite somewhere, not on the first one's grid, or flat where
            the model takes volumes.
        PreviousStageError: The segmentation cannot be used.
    """
    given, properties = read_case(case, description)
    return preprocessed_case(given, properties, case, description, previous=previous)


def read_case(case: Case, description: ModelDescription) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Channels that a case has, the one array (C, Z, Y, X) of a list, and what nnU-Net's reader says; errors as above."""
    voxels, properties = read_sound_images(case, description.reader, of_8_bits=channels_of_8_bits(description.dataset_json))
    if voxels.shape[1] == 1 and len(description.configuration.patch_size) == 3:
        raise FaultyImageError(case.name, f"{next(iter(case.files))} is 2D, but the model segments volumes. Predict it with a 2D "
                                          f"configuration (-c 2d).")
    require_like_spacing(case.name, properties["spacing"], description)
    if len(voxels) != sum(case.found):
        raise FaultyImageError(case.name, f"its {sum(case.found)} files hold {len(voxels)} channels, as 4D and colour images do. "
                                          "Give each channel a file of one volume.")
    return [voxels], properties


def preprocessed_case(given: list[np.ndarray], properties: dict[str, Any], case: Case, description: ModelDescription, *,
                      previous: Path | np.ndarray | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """:func:`preprocessed_images` of what :func:`read_case` gave, whose array is taken out."""
    labels = None
    if previous is not None:
        labels = previous_labels(previous, case.name, expected=geometry_of(given[0].shape[1:], properties),
                                 reader=description.reader, dataset_json=description.dataset_json)
    # What stands in the channel of an absent modality does not matter; zeros leave the crop as it is.
    given.append(with_absent(given.pop(), case.found))
    return preprocess(given, properties, description, labels=labels)


def require_like_spacing(case: str, spacing: Sequence[float], description: ModelDescription) -> None:
    """Make sure that voxels are about as large as the model's, along the axes that it resamples.

    Args:
        case: Its name.
        spacing: Millimetres along Z, Y, X.
        description: The model's.

    Raises:
        FaultyImageError: They are more than MOST_RESAMPLED times as large or as small, as where a header says metres.
    """
    target = description.configuration.spacing
    current = [spacing[axis] for axis in description.plans.transpose_forward][-len(target):]
    if any(not 1 / MOST_RESAMPLED <= now / then <= MOST_RESAMPLED for now, then in zip(current, target, strict=True)):
        said, planned = (" x ".join(f"{step:.4g}" for step in steps) for steps in (current, target))
        raise FaultyImageError(case, f"its spacing is {said} mm, and the model's {planned} mm, more than {MOST_RESAMPLED} times "
                                     "another. Correct its header, which may mean another unit.")


def preprocess(given: list[np.ndarray], properties: dict[str, Any], description: ModelDescription, *,
               labels: np.ndarray | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """nnU-Net's preprocessing of images.

    Args:
        given: Holds one array (C, Z, Y, X), which is taken out: it is large, and only nnU-Net's copy of it is needed.
        properties: With the spacing, from nnU-Net's reader.
        description: The model's.
        labels: Of a cascade's previous stage, shape (1, Z, Y, X); they are cropped and resampled with the images.

    Returns:
        Channels in float32, shape (C, Z', Y', X'), behind them a cascade's labels, one-hot; and further properties.
    """
    preprocessor = description.configuration.preprocessor_class(verbose=False)
    sparing = (_WithoutMask if labels is None else _WithSparingResampling)(description.configuration)
    with logged_prints():
        channels, segmentation, properties = preprocessor.run_case_npy(given.pop(), labels, properties, description.plans,
                                                                       sparing, description.dataset_json)
    if labels is not None:
        # Large, and of use in training alone.
        properties.pop("class_locations")
        channels = with_one_hot(channels, segmentation[0], description)
    return np.ascontiguousarray(channels), properties


def with_one_hot(channels: np.ndarray, labels: np.ndarray, description: ModelDescription) -> np.ndarray:
    """Channels (C, Z, Y, X), and behind them those of a cascade's labels (Z, Y, X) on the same grid, one per label."""
    foreground = description.label_manager.foreground_labels
    return np.concatenate([channels, convert_labelmap_to_one_hot(labels, foreground, channels.dtype)])


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
            image = read_image(given, reader, labels=True)
        except (UnreadableImageError, UnsuitableImageError) as error:
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


class _WithSparingResampling:
    """A configuration whose resampling of images takes little memory."""

    def __init__(self, configuration: ConfigurationManager) -> None:
        self._configuration = configuration

    def __getattr__(self, name: str) -> Any:
        return getattr(self._configuration, name)

    def resampling_fn_data(self, images: np.ndarray, shape: Sequence[int], current: Sequence[float],
                           target: Sequence[float]) -> np.ndarray:
        return resampled(images, shape, current, target, resample=self._configuration.resampling_fn_data)


class _WithoutMask(_WithSparingResampling):
    """The same, and the mask, which prediction does not need, is left as it is."""

    def resampling_fn_seg(self, mask: np.ndarray, *_: Any) -> np.ndarray:
        return mask
