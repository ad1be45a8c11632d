"""What a folder of predictions holds: its cases with their files, and the record of the run that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fuse4seg.datasets.dataset_json import channel_names, foreground_classes, read_dataset_json
from fuse4seg.datasets.images import find_reader
from fuse4seg.datasets.raw import Case, cases_of_files, expected_cases
from fuse4seg.errors import Fuse4SegError, OptionError, UnreadableRecordError
from fuse4seg.files import checksum, read_json
from fuse4seg.inference.export_case import FUSED
from fuse4seg.inference.folder_run import MISSING
from fuse4seg.inference.run_record import RUN

#: Where f4s_predict --uncertainty leaves its images.
UNCERTAINTY = "uncertainty"
#: How the names of the records of a run's parts begin and end.
PARTS = "run*.json"
MEND = "Give a folder that f4s_predict wrote, or fold_X/validation of a model."


@dataclass(frozen=True)
class PredictedCase:
    """A case of a folder of predictions.

    Attributes:
        name: Its name.
        segmentation: Predicted labels; None of a model without labels, and of a case that failed.
        fused: The fused image, of several folds the first one's; None of a case that failed.
        uncertainty: Image of the entropy, or None.
        sources: Its images by the names of their modalities, whether they are there or not; empty where nobody knows the folder.
        told: What run.json says of it; empty without such a record.
    """

    name: str
    segmentation: Path | None = None
    fused: Path | None = None
    uncertainty: Path | None = None
    sources: Mapping[str, Path] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failure(self) -> str | None:
        """Why it was not predicted; None if it was."""
        return None if self.fused else str(self.told.get("reason", "its fused image is not in the folder"))


@dataclass(frozen=True)
class Prediction:
    """A folder of predictions.

    Attributes:
        folder: The folder.
        dataset_json: The model's.
        reader: nnU-Net's, of the dataset's files.
        made_by: What run.json says of the run; empty without such a record.
        cases: In the order of their names.
        without_sources: Why the sources are not shown, in one line; None where they are.
    """

    folder: Path
    dataset_json: dict[str, Any]
    reader: type
    made_by: Mapping[str, Any]
    cases: tuple[PredictedCase, ...]
    without_sources: str | None = None

    @property
    def classes(self) -> dict[str, int | tuple[int, ...]]:
        """Labels or regions by their names; empty of a model without labels."""
        return foreground_classes(self.dataset_json)

    @property
    def modalities(self) -> list[str]:
        """Their names, in order."""
        return channel_names(self.dataset_json)

    @cached_property
    def report_id(self) -> str:
        """16 hexadecimal digits of the checksums of what was predicted: the same ones for as long as that is the same."""
        files = {case.name: checksum(case.segmentation or case.fused) for case in self.cases if case.fused}
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def read_prediction(folder: Path, *, images: Path | None = None) -> Prediction:
    """Look through a folder that f4s_predict or a validation wrote.

    Args:
        folder: The folder; dataset.json is in it or, of a validation, in the model's folder.
        images: Folder of the sources, CASE_0000, ...; None for that which the record names.

    Raises:
        OptionError: It holds no prediction, or ``images`` none of its cases.
        DatasetJsonError, UnreadableRecordError: What lies there is damaged.
        FolderNotFoundError, EmptyFolderError, MisnamedImageError: ``images``.
    """
    dataset_json = read_dataset_json(_described_in(folder))
    made_by, told = _records(folder)
    ending = dataset_json["file_ending"]
    segmented = _images(folder, ending) if foreground_classes(dataset_json) else {}
    fused = _fused_images(folder / FUSED, ending)
    names = sorted({*told, *fused, *segmented})
    if not fused:
        raise OptionError("FOLDER", f"{folder} holds no prediction: there is no fused image in {FUSED}/. {MEND}")
    sources, why = _sources(images, made_by.get("input"), dataset_json, names)
    uncertain = _images(folder / UNCERTAINTY, ending)
    cases = tuple(PredictedCase(name, segmented.get(name), fused.get(name), uncertain.get(name), sources.get(name, {}),
                                told.get(name, {})) for name in names)
    return Prediction(folder, dataset_json, find_reader(dataset_json, fused.values()), made_by, cases, why)


def _described_in(folder: Path) -> Path:
    """Where dataset.json is: in the folder, or in that of the model whose fold was validated."""
    for place in (folder, folder.absolute().parent.parent):
        if (place / "dataset.json").is_file():
            return place
    raise OptionError("FOLDER", f"{folder} holds no prediction: there is no dataset.json. {MEND}")


def _records(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What made the predictions, and what is told of the cases, of all parts of the run."""
    made_by: dict[str, Any] = {}
    told: dict[str, Any] = {}
    # The whole run's goes last, as it is the latest word where both kinds are there.
    for path in sorted(folder.glob(PARTS), key=lambda path: path.name == RUN):
        content = read_json(path, UnreadableRecordError)
        if not isinstance(content, dict) or not all(isinstance(content.get(entry), dict) for entry in ("made_by", "cases")):
            raise UnreadableRecordError(path, "is no record of a run")
        made_by |= content["made_by"]
        told |= {name: entry for name, entry in content["cases"].items() if isinstance(entry, dict)}
    if (folder / MISSING).is_file():
        missing = read_json(folder / MISSING, UnreadableRecordError)
        for name, absent in missing.items() if isinstance(missing, dict) else ():
            told[name] = {"absent": absent, **told.get(name, {})}
    return made_by, told


def _images(folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {path.name.removesuffix(ending): path for path in sorted(folder.glob("[!.]*"))
            if path.name.endswith(ending) and path.is_file()}


def _fused_images(folder: Path, ending: str) -> dict[str, Path]:
    """By case; of several folds those of the first that has them."""
    found: dict[str, Path] = {}
    for place in [folder, *sorted(folder.glob("fold_*"))]:
        found = {**_images(place, ending), **found}
    return found


def _sources(images: Path | None, told: Any, dataset_json: dict[str, Any],
             names: Sequence[str]) -> tuple[dict[str, dict[str, Path]], str | None]:
    """Source files of each case by modality, and why there are none."""
    channels, ending = channel_names(dataset_json), dataset_json["file_ending"]
    try:
        found = _found(images or told, channels, ending)
    except Fuse4SegError as error:
        if images is not None:
            raise
        return {}, f"the sources are not shown, as their folder has gone ({error}) Give it with -i."
    if found is None:
        return {}, "the sources are not shown, as nothing tells where they are. Give their folder with -i."
    sources = {name: dict(zip(channels, found[name].images, strict=False)) for name in names if name in found}
    if images is not None and not sources:
        raise OptionError("-i", f"{images} holds none of these cases, but for example {next(iter(found))}. Give their folder.")
    return sources, None


def _found(place: Any, channels: Sequence[str], ending: str) -> dict[str, Case] | None:
    """Cases by name, in a folder (a path or, in a record, its name) or of a record's list of files; None where none is told."""
    if isinstance(place, dict):
        place = place.get("folder") or place.get("files")
    if isinstance(place, list) and all(isinstance(file, str) for file in place):
        return cases_of_files(list(map(Path, place)), channels=channels, file_ending=ending)
    if isinstance(place, (str, Path)):
        return expected_cases(Path(place), channels=channels, file_ending=ending)
    return None
