"""Raw datasets in nnU-Net's layout: which files make up each case."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuse4seg.datasets.dataset_json import channel_names, is_labelled, may_lack_channels
from fuse4seg.datasets.dicom_files import is_dicom
from fuse4seg.errors import (
    DatasetJsonError,
    DuplicateCaseError,
    EmptyFolderError,
    FaultyImageError,
    FolderNotFoundError,
    Fuse4SegError,
    MisnamedImageError,
    MissingModalityError,
    SurplusChannelError,
)

logger = logging.getLogger(__name__)

#: Names of channels that one picture in colour holds.
COLOURS = (["r", "g", "b"], ["red", "green", "blue"])
#: What a user can do about a missing channel, in training and in prediction.
COMPLETE_IT = ("Add it, remove the case, or train without it: \"missing_modalities\": true in dataset.json, or --allow_missing.")
PREDICT_ANYWAY = "Add it, remove the case, or predict with --allow_missing."
ADD_ONE = "Give the case one image at least, and in a list of its images also the names of those that it lacks; or remove it."
#: How nnU-Net ends the names of preprocessed labels.
OF_LABELS = "_seg"


@dataclass(frozen=True)
class Case:
    """One case: a file per channel, in the channels' order, and its label, None in datasets without labels.

    A picture in colour whose red, green and blue are channels of the dataset stands for each of the three.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None

    @property
    def found(self) -> tuple[bool, ...]:
        """For each of ``images`` whether the file exists."""
        return tuple(path.is_file() for path in self.images)

    @property
    def files(self) -> dict[Path, list[int]]:
        """The files that exist, each with the numbers of the channels that it holds."""
        held: dict[Path, list[int]] = {}
        for number, (path, there) in enumerate(zip(self.images, self.found, strict=True)):
            if there:
                held.setdefault(path, []).append(number)
        return held


def list_cases(images_folder: Path, *, channels: Sequence[str], file_ending: str,
               allow_missing: bool = False) -> dict[str, Case]:
    """Cases of a folder of files CASE_0000, CASE_0001, ...; hidden files, sub-folders and other names are passed over.

    Args:
        images_folder: Folder such as imagesTr, or the input of a prediction.
        channels: Names of the channels, in order.
        file_ending: Ending of the files, with its dot.
        allow_missing: Also take cases that lack channels; each has one at least, by which it was found.

    Returns:
        The cases in the order of their names, each with a path for every channel, and a file there unless it is missing.

    Raises:
        FolderNotFoundError: There is no such folder.
        EmptyFolderError: It holds no such file.
        MissingModalityError: A case lacks a channel, which was not allowed.
        SurplusChannelError: A case has a channel beyond ``channels``.
    """
    cases = expected_cases(images_folder, channels=channels, file_ending=file_ending)
    for case in cases.values():
        if allow_missing:
            refuse_surplus(case, channels)
        else:
            require_channels(case, channels, mend=PREDICT_ANYWAY)
    return cases


def cases_of_files(files: Sequence[Path], *, channels: Sequence[str], file_ending: str) -> dict[str, Case]:
    """Cases of files CASE_0000, CASE_0001, ..., wherever they lie, as :func:`list_cases` gives those of a folder.

    Returns:
        The cases in the order of their names; channels that are not given are looked for beside the case's first file.

    Raises:
        MisnamedImageError: A file has another name or ending.
        DuplicateCaseError: Two files are the same channel of cases of the same name.
        SurplusChannelError: A case has a channel beyond ``channels``.
    """
    given: dict[str, dict[int, Path]] = {}
    for path in files:
        matched = _channel_pattern(file_ending).fullmatch(path.name)
        if not matched:
            raise MisnamedImageError(path, file_ending)
        case = given.setdefault(matched["case"], {})
        if int(matched["channel"]) in case:
            raise DuplicateCaseError(matched["case"], case[int(matched["channel"])], path)
        case[int(matched["channel"])] = path
    holders = _holders(channels, max((number for found in given.values() for number in found), default=0))
    cases = {name: Case(name, tuple(found.get(number, next(iter(found.values())).with_name(f"{name}_{number:04d}{file_ending}"))
                                    for number in [*holders, *range(len(holders), max(found) + 1)]))
             for name, found in sorted(given.items())}
    for case in cases.values():
        refuse_surplus(case, channels)
    return cases


def training_cases(folder: Path, dataset_json: dict[str, Any]) -> dict[str, Case]:
    """Training cases of a raw dataset, from imagesTr and labelsTr or from the explicit lists under ``dataset``.

    Args:
        folder: The raw dataset.
        dataset_json: Its dataset.json, from :func:`read_raw_dataset_json`.

    Returns:
        The cases in the order of their names, each with the label it should have, if any, and with all its channel files, or
        where dataset.json allows for less with one at least.

    Raises:
        As :func:`list_cases`, :func:`require_trainable` and :func:`require_used_channels`, and DatasetJsonError if the explicit
        lists cannot be used.
    """
    cases = expected_training_cases(folder, dataset_json)
    for case in cases.values():
        require_trainable(case, channel_names(dataset_json), allow_missing=may_lack_channels(dataset_json))
    require_used_channels(cases, folder, dataset_json)
    return cases


def expected_training_cases(folder: Path, dataset_json: dict[str, Any]) -> dict[str, Case]:
    """:func:`training_cases` before any look at whether the channel files exist, for reports on all cases at once."""
    if "dataset" in dataset_json:
        return dict(sorted(_listed_cases(folder, dataset_json["dataset"], channel_names(dataset_json))))
    ending = dataset_json["file_ending"]
    cases = expected_cases(folder / "imagesTr", channels=channel_names(dataset_json), file_ending=ending)
    if not is_labelled(folder, dataset_json):
        return cases
    return {name: Case(name, case.images, folder / "labelsTr" / f"{name}{ending}") for name, case in cases.items()}


def expected_cases(images_folder: Path, *, channels: Sequence[str], file_ending: str) -> dict[str, Case]:
    """:func:`list_cases` before any look at whether the channel files exist.

    A case that holds a channel beyond ``channels`` has as many images as that takes.
    """
    if not images_folder.is_dir():
        raise FolderNotFoundError(images_folder)
    found: dict[str, int] = {}
    for name, channel in _channel_files(images_folder, file_ending):
        found[name] = max(found.get(name, 0), channel)
    if not found:
        raise _nothing_found(images_folder, file_ending)
    holders = _holders(channels, max(found.values()))
    return {name: Case(name, tuple(images_folder / f"{name}_{number:04d}{file_ending}" for number in
                                   [*holders, *range(len(holders), last + 1)])) for name, last in sorted(found.items())}


def holds_cases(folder: Path, file_ending: str) -> bool:
    """Whether a folder holds a file CASE_0000, or of another channel."""
    pattern = _channel_pattern(file_ending)
    return any(pattern.fullmatch(path.name) and not path.is_dir() for path in folder.iterdir())


def _holders(channels: Sequence[str], last: int) -> list[int]:
    """For each channel the number of the file that holds it: its own, or one for red, green and blue, as nnU-Net takes pictures.

    Args:
        channels: Names, in order.
        last: The highest number of a file that is there. So many files as there are channels hold one each.
    """
    names, holders, number = [name.casefold() for name in channels], [], 0
    while len(holders) < len(names):
        together = 3 if names[len(holders):len(holders) + 3] in COLOURS else 1
        holders += [number] * together
        number += 1
    return holders if last < number else list(range(len(names)))


def _nothing_found(folder: Path, file_ending: str) -> Fuse4SegError:
    """What to tell of a folder without cases: what it holds instead, and which command converts it."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    unnumbered = [path for path in files if path.name.endswith(file_ending)]
    if unnumbered:
        return MisnamedImageError(unnumbered[0], file_ending)
    if any(is_dicom(path) for path in files):
        return EmptyFolderError(folder, file_ending, mend="It holds DICOM. Convert it with f4s_convert_dataset dicom.")
    return EmptyFolderError(folder, file_ending)


def examples(cases: Iterable[Case]) -> Iterator[Path]:
    """The first image that there is of each case."""
    for case in cases:
        yield from list(case.files)[:1]


def require_used_channels(cases: Mapping[str, Case], folder: Path, dataset_json: dict[str, Any]) -> None:
    """Make sure that where cases may lack channels each channel is in some case.

    Raises:
        DatasetJsonError: Nothing can be learned of a channel.
    """
    if not may_lack_channels(dataset_json):
        return
    found = [case.found for case in cases.values()]
    for number, channel in enumerate(channel_names(dataset_json)):
        if not any(True in there[number:number + 1] for there in found):
            raise DatasetJsonError(folder / "dataset.json", f"channel_names gives {channel}, of which no training case has an "
                                                            "image. Add some, or leave the channel out.")


def require_trainable(case: Case, channels: Sequence[str], *, allow_missing: bool = False) -> None:
    """Make sure that nnU-Net can train on a case: it has its channels, and a name that nnU-Net does not take for another's label.

    Args:
        case: The case.
        channels: Names of the dataset's channels.
        allow_missing: One channel is enough; a case of explicit lists names the files of all even so.

    Raises:
        FaultyImageError: Its name ends in _seg: preprocessed, it would be passed over, or overwrite the label of another case.
        As :func:`require_channels`.
    """
    if not allow_missing:
        require_channels(case, channels)
    elif any(case.found) and len(case.images) >= len(channels):
        refuse_surplus(case, channels)
    else:
        require_channels(case, channels, mend=ADD_ONE)
    if case.name.endswith(OF_LABELS):
        raise FaultyImageError(case.name, f"nnU-Net takes names that end in {OF_LABELS} for labels, and would not train on it. "
                                          "Rename its files.")


def require_channels(case: Case, channels: Sequence[str], *, mend: str = COMPLETE_IT) -> None:
    """Make sure that a case has one existing file for each channel.

    Raises:
        MissingModalityError: A file is missing.
        SurplusChannelError: There are more files than channels.
    """
    for number, channel in enumerate(channels):
        if number >= len(case.images):
            raise MissingModalityError(case.name, channel, Path(f"{case.name}_{number:04d}"), mend)
        if not case.images[number].is_file():
            raise MissingModalityError(case.name, channel, case.images[number], mend)
    refuse_surplus(case, channels)


def refuse_surplus(case: Case, channels: Sequence[str]) -> None:
    """Make sure that a case has no file beyond the channels.

    Raises:
        SurplusChannelError: There are more files than channels.
    """
    if len(case.images) > len(channels):
        raise SurplusChannelError(case.name, case.images[-1], channels)


def _channel_files(images_folder: Path, file_ending: str) -> Iterator[tuple[str, int]]:
    pattern, others = _channel_pattern(file_ending), []
    # Links that lead nowhere are files here: they are named where they are read, and not passed over.
    for path in sorted(path for path in images_folder.iterdir() if not path.is_dir()):
        if matched := pattern.fullmatch(path.name):
            yield matched["case"], int(matched["channel"])
        elif re.fullmatch(r"[^.].*_\d{4}(\.\w+)+", path.name):
            others.append(path.name)
    say_left_out(images_folder, others, file_ending)


def say_left_out(folder: Path, names: Sequence[str], file_ending: str) -> None:
    """Say that files of other endings, or of the same in capitals, are not read."""
    if names:
        logger.warning("%s: left out %s%s: only files *%s are read. Convert or rename what is meant to be.", folder, names[0],
                       f" and {len(names) - 1} more" if names[1:] else "", file_ending)


def _channel_pattern(file_ending: str) -> re.Pattern[str]:
    return re.compile(r"(?P<case>[^.].*)_(?P<channel>\d{4})" + re.escape(file_ending))


def _listed_cases(folder: Path, listed: Any, channels: Sequence[str]) -> Iterator[tuple[str, Case]]:
    if not isinstance(listed, dict) or not listed:
        problem = "'dataset' names no cases. Map each case to its images and label, or leave it out."
        raise DatasetJsonError(folder / "dataset.json", problem)
    for name, entry in listed.items():
        if not name or name.startswith(".") or Path(name).name != name:
            problem = f"'dataset' names a case {name!r}, which is no file name. Give another."
            raise DatasetJsonError(folder / "dataset.json", problem)
        try:
            if not isinstance(entry["images"], list):
                raise TypeError(entry["images"])
            images, label = [os.path.expandvars(path) for path in entry["images"]], os.path.expandvars(entry["label"])
        except (TypeError, KeyError) as error:
            problem = f"'dataset' gives case {name} without images and label. Add both, or remove the case."
            raise DatasetJsonError(folder / "dataset.json", problem) from error
        holders = _holders(channels, len(images) - 1)
        if max(holders) == len(images) - 1:
            images = [images[number] for number in holders]
        yield name, Case(name, tuple(folder / path for path in images), folder / label)


