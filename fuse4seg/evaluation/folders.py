"""Segmentation evaluation: a folder of predictions against a folder of references, case by case and class by class."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from fuse4seg.datasets.images import find_reader, geometry_difference, read_image
from fuse4seg.datasets.raw import IGNORE, foreground_classes
from fuse4seg.errors import EmptyFolderError, FaultyImageError, FolderNotFoundError, UnpairedCasesError
from fuse4seg.evaluation.dice import dice
from fuse4seg.evaluation.table import format_table
from fuse4seg.files import write_json
from fuse4seg.progress import progress

logger = logging.getLogger(__name__)

SHOWN_NAMES = 5


@dataclass(frozen=True)
class Evaluation:
    """Dice of every case and class.

    Attributes:
        classes: Names of the foreground labels or regions.
        cases: For each case, one Dice per class, NaN where the class is in neither prediction nor reference.
    """

    classes: tuple[str, ...]
    cases: dict[str, tuple[float, ...]]

    def class_means(self) -> dict[str, float]:
        """Mean over the cases for each class, NaN left out; NaN for a class that no case has."""
        return {name: _mean(value for value in column if not math.isnan(value)) for name, column in self._columns()}

    def left_out(self) -> dict[str, int]:
        """For each class, how many cases were NaN and so left out of its mean."""
        return {name: sum(map(math.isnan, column)) for name, column in self._columns()}

    def foreground_mean(self) -> float:
        """Mean of the class means, as in nnU-Net's summary; NaN if one of them is NaN."""
        return _mean(self.class_means().values())

    def format(self) -> str:
        """Table with a row per case and their mean, and a row that counts what was left out if anything was."""
        rows: list[list[str | float]] = [[case, *values] for case, values in self.cases.items()]
        rows.append(["mean", *self.class_means().values()])
        if any(self.left_out().values()):
            rows.append(["nan, left out", *self.left_out().values()])
        return format_table(["Dice", *self.classes], rows)

    def write_json(self, path: Path) -> None:
        """Write cases, means and counts as JSON, whole or not at all; NaN becomes null.

        Raises:
            UnwritableFolderError: The file cannot be written.
        """
        cases = {case: dict(zip(self.classes, map(_none_for_nan, values), strict=True))
                 for case, values in self.cases.items()}
        means = {name: _none_for_nan(value) for name, value in self.class_means().items()}
        write_json({"metric": "Dice", "foreground_mean": _none_for_nan(self.foreground_mean()), "mean": means,
                    "left_out": self.left_out(), "cases": cases}, path)

    def _columns(self) -> list[tuple[str, list[float]]]:
        return [(name, [values[index] for values in self.cases.values()]) for index, name in enumerate(self.classes)]


def evaluate_folders(predictions: Path, references: Path, *, dataset_json: dict[str, Any]) -> Evaluation:
    """Dice of every predicted segmentation against the reference of the same file name.

    Args:
        predictions: Folder of predicted label images; sub-folders and files with another ending are passed over.
        references: Folder of reference label images.
        dataset_json: Names labels or regions, the ignore label and the file ending.

    Raises:
        FolderNotFoundError, EmptyFolderError: One of the folders is missing, or holds no image.
        UnpairedCasesError: An image is in one folder only.
        UnreadableImageError: A file cannot be read.
        FaultyImageError: The geometry of a prediction is not that of its reference.
    """
    ending = dataset_json["file_ending"]
    names = _paired_names(predictions, references, ending)
    reader = find_reader(dataset_json, (references / name for name in names))
    classes, ignored = foreground_classes(dataset_json), dataset_json["labels"].get(IGNORE)
    cases: dict[str, tuple[float, ...]] = {}
    for name in progress(names, "evaluating", unit="case"):
        case = name.removesuffix(ending)
        predicted, wanted = _read_pair(case, predictions / name, references / name, reader=reader)
        cases[case] = tuple(dice(predicted, wanted, entry, ignore_label=ignored) for entry in classes.values())
    return Evaluation(tuple(classes), cases)


def _read_pair(case: str, prediction: Path, reference: Path, *,
               reader: type[BaseReaderWriter]) -> tuple[np.ndarray, np.ndarray]:
    """Label values of prediction and reference, shape (C, Z, Y, X) each."""
    predicted, wanted = read_image(prediction, reader), read_image(reference, reader)
    difference = geometry_difference(predicted.geometry, wanted.geometry)
    if difference:
        raise FaultyImageError(case, f"{prediction} has {difference} in {reference}. Predict again from its images.")
    return predicted.voxels, wanted.voxels


def _paired_names(predictions: Path, references: Path, ending: str) -> list[str]:
    predicted, wanted = _image_names(predictions, ending), _image_names(references, ending)
    _require_all(wanted, predicted, holds=references, lacks=predictions)
    _require_all(predicted, wanted, holds=predictions, lacks=references)
    return sorted(wanted)


def _require_all(names: set[str], found: set[str], *, holds: Path, lacks: Path) -> None:
    missing = sorted(names - found)
    if missing:
        shown = ", ".join(missing[:SHOWN_NAMES]) + (", ..." if len(missing) > SHOWN_NAMES else "")
        problem = f"{lacks} lacks {len(missing)} file(s) that {holds} holds: {shown}. Add or remove them."
        raise UnpairedCasesError(problem)


def _image_names(folder: Path, ending: str) -> set[str]:
    if not folder.is_dir():
        raise FolderNotFoundError(folder)
    names = {path.name for path in folder.glob(f"[!.]*{ending}") if path.is_file()}
    if not names:
        raise EmptyFolderError(folder, ending)
    return names


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    return float(np.mean(collected)) if collected else math.nan


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
