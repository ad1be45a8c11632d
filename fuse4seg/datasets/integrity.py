"""Integrity check of a raw dataset: every faulty case in one line that names the file and the mend."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from fuse4seg.background import results_of
from fuse4seg.case_faults import fault_of
from fuse4seg.colour import WHITE
from fuse4seg.datasets.dataset_json import (
    OF_8_BITS,
    channel_names,
    channels_of_8_bits,
    label_values,
    may_lack_channels,
    read_raw_dataset_json,
)
from fuse4seg.datasets.images import Geometry, Image, find_reader, geometry_difference, read_image
from fuse4seg.datasets.raw import Case, examples, expected_training_cases, require_trainable, require_used_channels
from fuse4seg.errors import (
    DatasetJsonError,
    FaultyDatasetError,
    FaultyImageError,
    UnreadableImageError,
    UnsuitableImageError,
)

logger = logging.getLogger(__name__)

SHOWN_VALUES = 5


def check_dataset(dataset_folder: Path, *, processes: int, allow_missing: bool = False) -> None:
    """Examine every training case of a raw dataset; arguments as :func:`find_faults` takes them.

    Raises:
        FaultyDatasetError: Some cases are faulty; one line for each.
        As :func:`find_faults`.
    """
    faults = find_faults(dataset_folder, processes=processes, allow_missing=allow_missing)
    if faults:
        raise FaultyDatasetError(dataset_folder.name, faults)


def find_faults(dataset_folder: Path, *, processes: int, allow_missing: bool = False) -> list[str]:
    """Faults of a raw dataset, one line per faulty case, and one per file that nnU-Net would mistake for a case.

    A case is faulty if a channel file is missing (unless that is allowed), surplus, unreadable, constant, or holds NaN or
    infinite values; if its label is missing, unreadable, or holds a value that dataset.json does not name (unless the dataset
    has no labels); if shape, spacing, origin or direction differ among these files.

    Args:
        dataset_folder: Folder Dataset<id>_<name> with dataset.json.
        processes: Cases examined at a time; with 1, in this process.
        allow_missing: Cases may lack channels, whatever dataset.json says; one at least has to be there.

    Raises:
        DatasetJsonError: dataset.json cannot be used, or gives another number of training cases than there are, or a channel
            that no case has.
        FolderNotFoundError, EmptyFolderError: There are no training images.
        UnsupportedFormatError: nnU-Net has no reader for the files.
        WorkerDiedError: A process ended without an answer.
    """
    dataset_json = read_raw_dataset_json(dataset_folder, allow_missing=allow_missing)
    cases = expected_training_cases(dataset_folder, dataset_json)
    _require_count(dataset_folder, dataset_json, len(cases))
    require_used_channels(cases, dataset_folder, dataset_json)
    examine = partial(find_fault, channels=channel_names(dataset_json), allowed=label_values(dataset_json),
                      of_8_bits=channels_of_8_bits(dataset_json), allow_missing=may_lack_channels(dataset_json),
                      reader=find_reader(dataset_json, examples(cases.values())))
    found = results_of(examine, cases.values(), processes=processes, doing="checking cases")
    return [fault for fault in found if fault] + _misnamed(dataset_folder, dataset_json)


def find_fault(case: Case, *, channels: Sequence[str], allowed: set[int], reader: type[BaseReaderWriter],
               of_8_bits: Sequence[int] = (), allow_missing: bool = False) -> str | None:
    """All that is wrong with a case, in one line; None for a sound case.

    Args:
        case: The case, with its label if the dataset has labels.
        channels: Names of the dataset's channels.
        allowed: Values its label may hold.
        reader: nnU-Net's reader of the dataset's files.
        of_8_bits: Numbers of the channels that hold no other intensities than 0 to 255.
        allow_missing: It may lack channels.
    """
    try:
        require_trainable(case, channels, allow_missing=allow_missing)
        problems = list(_problems(case, allowed, reader, of_8_bits))
    except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
        return str(fault_of(error, case.name))
    return str(FaultyImageError(case.name, " ".join(problems))) if problems else None


def _require_count(dataset_folder: Path, dataset_json: dict[str, Any], found: int) -> None:
    stated = dataset_json["numTraining"]
    if stated != found:
        problem = f"numTraining is {stated}, but there are {found} training cases. Correct it, or add or remove cases."
        raise DatasetJsonError(dataset_folder / "dataset.json", problem)


def read_sound_images(case: Case, reader: type[BaseReaderWriter], *,
                      of_8_bits: Sequence[int] = ()) -> tuple[np.ndarray, dict[str, Any]]:
    """Channels that a case has, without a label, shape (C, Z, Y, X), once it is sure that they can be used.

    Returns:
        Voxels in float32, and what the reader says of the first channel.

    Raises:
        FaultyImageError: A channel is unreadable, constant, NaN or infinite somewhere, or not on the first one's grid.
    """
    images: list[Image] = []
    problems = list(_image_problems(case, reader, of_8_bits, images))
    if problems or not images:
        raise FaultyImageError(case.name, " ".join(problems) or f"{case.images[0]} and its other images do not exist. Add one.")
    return np.concatenate([image.voxels for image in images]), images[0].properties


def _problems(case: Case, allowed: set[int], reader: type[BaseReaderWriter], of_8_bits: Sequence[int]) -> Iterator[str]:
    expected = yield from _image_problems(case, reader, of_8_bits)
    if case.label is None:
        return
    if not case.label.is_file():
        yield f"it has no label: expected {case.label}. Add it, or remove the case."
        return
    label = yield from _readable(case.label, reader, labels=True)
    if label:
        yield from _misplacement(label, expected or label.geometry)
        yield from _label_problems(label, allowed)


def _image_problems(case: Case, reader: type[BaseReaderWriter], of_8_bits: Sequence[int],
                    images: list[Image] | None = None) -> Generator[str, None, Geometry | None]:
    """Yield what is wrong with the channels; return the geometry of the first readable one. Readable ones go to ``images``."""
    expected: Geometry | None = None
    for path, numbers in case.files.items():
        image = yield from _readable(path, reader, channels=len(numbers))
        if image:
            expected = expected or image.geometry
            yield from _misplacement(image, expected)
            yield from _intensity_problems(image)
            if set(numbers) & set(of_8_bits):
                yield from _range_problems(image)
            if images is not None:
                images.append(image)
    return expected


def _readable(path: Path, reader: type[BaseReaderWriter], *, channels: int = 1, labels: bool = False) \
        -> Generator[str, None, Image | None]:
    """Yield the problem of an unreadable file; return the image of a readable one."""
    try:
        return read_image(path, reader, channels=channels, labels=labels)
    except (UnreadableImageError, UnsuitableImageError) as error:
        yield str(error)
    return None


def _misplacement(image: Image, expected: Geometry) -> Iterator[str]:
    difference = geometry_difference(image.geometry, expected)
    if difference:
        yield f"{image.path} has {difference} in the case's first channel. Resample it to that channel's grid."


def _intensity_problems(image: Image) -> Iterator[str]:
    if image.voxels.min() == image.voxels.max():
        yield f"{image.path} is constant, every voxel is {image.voxels.min():g}. Replace it by the real image."


def _range_problems(image: Image) -> Iterator[str]:
    low, high = image.voxels.min(), image.voxels.max()
    if low < 0 or high > WHITE:
        yield (f"{image.path} holds intensities from {low:g} to {high:g}, and its channel takes 0 to {WHITE} ({OF_8_BITS}). "
               "Save it with 8 bits.")


def _label_problems(label: Image, allowed: set[int]) -> Iterator[str]:
    surplus = [f"{value:g}" for value in np.unique(label.voxels) if value not in allowed]
    if surplus:
        values = ", ".join(surplus[:SHOWN_VALUES]) + (", ..." if len(surplus) > SHOWN_VALUES else "")
        yield f"{label.path} holds the value {values}, which dataset.json does not name. Correct the label, or name it."


def _misnamed(dataset_folder: Path, dataset_json: dict[str, Any]) -> list[str]:
    """Files that we pass over while nnU-Net, which looks at the ending alone, takes them for cases."""
    if "dataset" in dataset_json:
        return []
    ending = dataset_json["file_ending"]
    known = {path for case in expected_training_cases(dataset_folder, dataset_json).values() for path in case.images}
    found = {path for path in (dataset_folder / "imagesTr").glob(f"[!.]*{ending}") if path.is_file()}
    return [f"{path} is not named CASE_0000{ending}, CASE_0001{ending}, ... Rename or remove it."
            for path in sorted(found - known)]
