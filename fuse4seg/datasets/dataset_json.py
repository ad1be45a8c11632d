"""dataset.json in nnU-Net's layout: read, validated, and what it says of channels and labels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fuse4seg.errors import DatasetJsonError
from fuse4seg.files import read_json, write_json

IGNORE = "ignore"
#: Entry of dataset.json that names the normalisation of channels, which nnU-Net otherwise takes from their names.
NORMALISATION = "normalization"
#: That of pictures of 8 bits a channel.
OF_8_BITS = "rgb_to_0_1"
READER = "overwrite_image_reader_writer"
NORMALISATIONS = ("ct", "nonorm", "zscore", "rescale_to_0_1", OF_8_BITS)
#: Labels of a dataset that nobody labelled.
NO_LABELS = {"background": 0}
#: Where dataset.json may name the modality that asks in the cross-attention, and that the others are to be aligned with.
REFERENCE = "reference_modality"
#: Where dataset.json may say that training cases lack the files of some channels.
MISSING_MODALITIES = "missing_modalities"
#: Bytes of a channel's or label's name, so that a file name holds it beside a case's.
LONGEST_NAME = 100
SHOWN_NAME = 40


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """Content of ``folder``/dataset.json, validated as in :func:`read_dataset_description`."""
    return read_dataset_description(folder / "dataset.json")


def read_raw_dataset_json(folder: Path, *, allow_missing: bool = False) -> dict[str, Any]:
    """The same of a raw dataset; without labels it names the background alone, whatever the file lists.

    Args:
        folder: Of the dataset.
        allow_missing: Let it say that training cases may lack channels, as if the file did.
    """
    path = folder / "dataset.json"
    content = read_json(path, _unreadable)
    if isinstance(content, dict) and not is_labelled(folder, content):
        content = {**content, "labels": dict(NO_LABELS)}
        content.pop("regions_class_order", None)
    checked = _validated(content, path)
    return {**checked, MISSING_MODALITIES: True} if allow_missing else checked


def may_lack_channels(dataset_json: dict[str, Any]) -> bool:
    """Whether training cases may lack channels, one at least being there.

    Example:
        >>> may_lack_channels({}), may_lack_channels({"missing_modalities": True})
        (False, True)
    """
    return dataset_json.get(MISSING_MODALITIES, False)


def is_labelled(folder: Path, dataset_json: dict[str, Any]) -> bool:
    """Whether a raw dataset has labels: a folder labelsTr, or explicit lists, which always name them."""
    return "dataset" in dataset_json or (folder / "labelsTr").is_dir()


def read_dataset_description(path: Path) -> dict[str, Any]:
    """Content of a dataset.json file.

    Args:
        path: The file, whatever its name.

    Returns:
        Its content, with channels numbered 0, 1, ..., labels that nnU-Net accepts, file_ending and numTraining.

    Raises:
        DatasetJsonError: It is missing, is not JSON, or lacks something; the message names the mend.
    """
    return _validated(read_json(path, _unreadable), path)


def declare_missing(folder: Path) -> None:
    """Let the dataset.json of preprocessed data say that cases may lack channels: training then looks which each case has."""
    if not may_lack_channels(content := read_dataset_json(folder)):
        write_json({**content, MISSING_MODALITIES: True}, folder / "dataset.json")


@contextmanager
def declaration_kept(folder: Path, *, stated: dict[str, Any] | None = None) -> Iterator[None]:
    """Let dataset.json be written anew within it, and say afterwards that cases may lack channels if it did before.

    Args:
        folder: Of preprocessed data, which stay what they are until they are preprocessed anew.
        stated: What is stated of the dataset now, which may say so, too.
    """
    declare = may_lack_channels(stated or {})
    with suppress(DatasetJsonError):  # a damaged one is written anew
        declare = declare or may_lack_channels(read_dataset_json(folder))
    try:
        yield
    finally:
        if declare and (folder / "dataset.json").is_file():
            declare_missing(folder)


def channel_names(dataset_json: dict[str, Any]) -> list[str]:
    """Names of the channels in the order of their numbers; ``modality`` is the older name of the entry."""
    channels = dataset_json.get("channel_names", dataset_json.get("modality"))
    return [str(channels[number]) for number in sorted(channels, key=int)]


def channels_of_8_bits(dataset_json: dict[str, Any]) -> list[int]:
    """Numbers of the channels whose 0 is black and 255 white, for which nnU-Net takes no other intensities."""
    chosen = dataset_json.get(NORMALISATION, {})
    return [number for number, name in enumerate(channel_names(dataset_json))
            if str(chosen.get(str(number), name)).casefold() == OF_8_BITS]


def file_part(name: str) -> str:
    """A channel's or label's name as part of a file name: what some system refuses there becomes a hyphen."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "-", unicodedata.normalize("NFC", name))


def label_values(dataset_json: dict[str, Any]) -> set[int]:
    """All values a label image may hold: background, every member of every region, and the ignore label."""
    return {value for entry in dataset_json["labels"].values() for value in _members(entry)}


def foreground_classes(dataset_json: dict[str, Any]) -> dict[str, int | tuple[int, ...]]:
    """What nnU-Net evaluates: each foreground label, or region (a tuple of label values), by its name."""
    classes = {name: _members(entry) for name, entry in dataset_json["labels"].items() if name != IGNORE}
    return {name: values if len(values) > 1 else values[0] for name, values in classes.items() if set(values) != {0}}


def _unreadable(path: Path, reason: str | None = None) -> DatasetJsonError:
    return DatasetJsonError(path, "is missing. Add one that gives channel_names, labels, file_ending and numTraining."
                            if reason is None else f"{reason}. Mend or replace it.")


def _validated(content: Any, path: Path) -> dict[str, Any]:
    problem = _problem(content)
    if problem:
        raise DatasetJsonError(path, problem)
    return content


def _problem(content: Any) -> str | None:
    if not isinstance(content, dict):
        return "is not a JSON object. Replace it."
    if "channel_names" not in content and "modality" not in content:
        return "lacks channel_names. Add for example {\"0\": \"T1\", \"1\": \"FLAIR\"}."
    for key in ("labels", "file_ending", "numTraining"):
        if key not in content:
            return f"lacks {key}. Add it."
    channels = content.get("channel_names", content.get("modality"))
    return (_channels_problem(channels) or _names_problem("channel", map(str, channels.values()))
            or _normalisation_problem(content.get(NORMALISATION, {}), channels)
            or _labels_problem(content) or _scalars_problem(content))


def _channels_problem(channels: Any) -> str | None:
    if not isinstance(channels, dict) or not channels or set(channels) != {str(number) for number in range(len(channels))}:
        return "channel_names must map \"0\", \"1\", ... to names. Renumber them without a gap."
    if unnamed := [name for name in channels.values() if not isinstance(name, str)]:
        return f"channel_names must map numbers to names, not to {unnamed[0]!r}. Name each."
    return None


def _names_problem(kind: str, names: Iterable[str]) -> str | None:
    """Whether names, which become parts of file names, would give one file for two, also on disks that know no case."""
    known: dict[str, str] = {}
    for name in names:
        part = file_part(name)
        if not part or len(part.encode(errors="replace")) > LONGEST_NAME:
            return f"the {kind} name {name[:SHOWN_NAME]!r} is empty or longer than {LONGEST_NAME} bytes. Give another."
        other = known.setdefault(part.casefold(), name)
        if other is not name:
            return f"the {kind} names {other!r} and {name!r} would become the same file name. Rename one."
    return None


def _normalisation_problem(chosen: Any, channels: dict[str, str]) -> str | None:
    if not isinstance(chosen, dict) or not set(chosen) <= set(channels) or not all(
            isinstance(scheme, str) and scheme in NORMALISATIONS for scheme in chosen.values()):
        return f"{NORMALISATION} must map channel numbers to some of {', '.join(NORMALISATIONS)}. Correct it, or leave it out."
    return None


def _labels_problem(content: dict[str, Any]) -> str | None:
    labels = content["labels"]
    if not isinstance(labels, dict) or not all(_is_label(entry) for entry in labels.values()):
        return "labels must map each name to its value or list of values. Write {\"background\": 0, \"tumour\": 1}."
    if labels.get("background") != 0:
        return "labels must give background the value 0. Add \"background\": 0."
    by_values: dict[frozenset[int], str] = {}
    for name, entry in labels.items():
        other = by_values.setdefault(frozenset(_members(entry)), name)
        if other != name:
            return f"labels gives {other!r} and {name!r} the same value. Keep one, or give each its own."
    if problem := _names_problem("label", labels):
        return problem
    values = sorted({value for entry in labels.values() for value in _members(entry)})
    if values != list(range(len(values))):
        brats = " If this is BraTS before 2023, f4s_convert_dataset brats does both." if values == [0, 1, 2, 4] else ""
        return f"labels must be numbered 0, 1, 2, ... without a gap, not {values}. Renumber them, in the images, too.{brats}"
    if IGNORE in labels and labels[IGNORE] != values[-1]:
        return "the label ignore must have the highest value, and be no list. Renumber the labels."
    return _regions_problem(foreground_classes(content), content.get("regions_class_order"))


def _regions_problem(classes: dict[str, int | tuple[int, ...]], order: Any) -> str | None:
    has_regions = any(isinstance(entry, tuple) for entry in classes.values())
    if not has_regions:
        return None
    if not (isinstance(order, list) and len(order) == len(classes)):
        return f"regions need regions_class_order with {len(classes)} values, one per region. Add it."
    # What is written of a region would else be no part of it, or that of two the same.
    for number, (name, value) in enumerate(zip(classes, order, strict=True)):
        if type(value) is not int or value not in _members(classes[name]) or value in order[:number]:
            return (f"regions_class_order gives the region {name!r} the value {value!r}. Give each region one of its own values, "
                    "and no two the same.")
    return None


def _scalars_problem(content: dict[str, Any]) -> str | None:
    ending, count = content["file_ending"], content["numTraining"]
    if not isinstance(ending, str) or not ending.startswith("."):
        return f"file_ending must be an ending with its dot, not {ending!r}. Write for example \".nii.gz\"."
    if not isinstance(content.get(READER, ""), str):
        return f"{READER} must be the name of a reader of nnU-Net's, not {content[READER]!r}. Leave it out."
    if not isinstance(content.get(MISSING_MODALITIES, False), bool):
        return f"{MISSING_MODALITIES} must be true or false, not {content[MISSING_MODALITIES]!r}. Correct it, or leave it out."
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        return f"numTraining must be a number of cases, not {count!r}. Write how many training cases there are."
    return None


def _is_label(entry: Any) -> bool:
    values = entry if isinstance(entry, list) else [entry]
    return bool(values) and all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _members(entry: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(entry) if isinstance(entry, (list, tuple)) else (entry,)
