"""Segmentation evaluation: a folder of predictions against a folder of references, case by case and class by class."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation

from fuse4seg.case_faults import fault_in_scoring
from fuse4seg.datasets.dataset_json import IGNORE, foreground_classes, label_values
from fuse4seg.datasets.grey_images import IMAGES
from fuse4seg.datasets.images import Image, find_reader, geometry_difference, read_image, tilt_reader
from fuse4seg.datasets.raw import say_left_out
from fuse4seg.datasets.sources import require_equal_names
from fuse4seg.errors import EmptyFolderError, FaultyImageError, FolderNotFoundError
from fuse4seg.evaluation.bootstrap import defined_mean, mean_interval, shown_interval
from fuse4seg.evaluation.hausdorff import hausdorff_95
from fuse4seg.evaluation.overlap import Confusion, confusion, dice, iou, precision, sensitivity
from fuse4seg.evaluation.table import format_table
from fuse4seg.evaluation.volumes import mask_of
from fuse4seg.files import write_json, written_whole
from fuse4seg.progress import progress

#: In the order of tables; HD95 in millimetres, and the only one where less is better.
METRICS = ("Dice", "IoU", "HD95", "sensitivity", "precision")
#: What becomes of a class that is nowhere or in one image alone; it stands in every result.
UNDEFINED = {"Dice": "NaN in neither image, 0 in one alone", "IoU": "NaN in neither image, 0 in one alone",
         "HD95": "millimetres; NaN in neither image or in one alone", "sensitivity": "NaN without reference",
         "precision": "NaN without prediction", "mean": "over the cases that are not NaN; left_out counts the others"}
Classes = Mapping[str, int | tuple[int, ...]]


@dataclass(frozen=True)
class Scores:
    """One class of one case."""

    counts: Confusion
    hd95: float

    @property
    def values(self) -> dict[str, float]:
        """By METRICS."""
        return dict(zip(METRICS, (dice(self.counts), iou(self.counts), self.hd95, sensitivity(self.counts),
                                  precision(self.counts)), strict=True))


@dataclass(frozen=True)
class Evaluation:
    """All metrics of every case and class.

    Attributes:
        classes: What nnU-Net evaluates: the foreground labels, or the dataset's own regions.
        regions: Further regions that were asked for; they are no part of the foreground mean.
        cases: For each case, the scores by class and region.
        faults: One line for each case that could not be scored.
        largest_component: Whether all but the largest component of each prediction's foreground was left out.
    """

    classes: Classes
    cases: dict[str, dict[str, Scores]]
    regions: Classes
    faults: tuple[str, ...] = ()
    largest_component: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes and the further regions."""
        return (*self.classes, *self.regions)

    def column(self, name: str, metric: str = "Dice") -> list[float]:
        """One value per case."""
        return [scores[name].values[metric] for scores in self.cases.values()]

    def class_means(self, metric: str = "Dice") -> dict[str, float]:
        """Mean over the cases for each class, NaN left out; NaN for a class that no case has."""
        return {name: defined_mean(self.column(name, metric)) for name in self.names}

    def left_out(self, metric: str = "Dice") -> dict[str, int]:
        """For each class, how many cases were NaN and so left out of its mean."""
        return {name: sum(map(math.isnan, self.column(name, metric))) for name in self.names}

    def foreground_mean(self, metric: str = "Dice") -> float:
        """Mean of the class means, as in nnU-Net's summary; NaN if one of them is NaN. Of IoU it is the mIoU."""
        means = self.class_means(metric)
        return float(np.mean([means[name] for name in self.classes])) if self.classes else math.nan

    def format(self) -> str:
        """Table of Dice: a row per case and their mean, and a row that counts what was left out if anything was."""
        rows: list[list[str | float]] = [[case, *(scores[name].values["Dice"] for name in self.names)]
                                         for case, scores in self.cases.items()]
        rows.append(["mean", *self.class_means().values()])
        if any(self.left_out().values()):
            rows.append(["nan, left out", *self.left_out().values()])
        return format_table(["Dice", *self.names], rows)

    def format_classes(self, *, seed: int = 0) -> str:
        """Table of the means of all metrics: a row per class, with the interval of its mean Dice."""
        rows: list[list[str | float]] = []
        for name in self.names:
            means = [self.class_means(metric)[name] for metric in METRICS]
            left_out = max(self.left_out(metric)[name] for metric in METRICS)
            rows.append([name, means[0], shown_interval(mean_interval(self.column(name), seed=seed)), *means[1:], left_out])
        overall = [self.foreground_mean(metric) for metric in METRICS]
        rows.append(["foreground mean", overall[0], "", *overall[1:], ""])
        return format_table(["mean", "Dice", "95 % interval", *METRICS[1:], "left out, at most"], rows)

    def to_plain(self, *, seed: int = 0) -> dict[str, Any]:
        """For a JSON file; NaN becomes None."""
        return {
            "foreground_mean": {metric: _none_for_nan(self.foreground_mean(metric)) for metric in METRICS},
            "mean": self._by_class(lambda name, metric: _none_for_nan(self.class_means(metric)[name])),
            "interval": self._by_class(lambda name, metric: list(map(_none_for_nan, mean_interval(self.column(name, metric),
                                                                                                  seed=seed)))),
            "left_out": self._by_class(lambda name, metric: self.left_out(metric)[name]),
            "rules": UNDEFINED, "largest_component": self.largest_component,
            "interval_of": "the mean, 95 %, percentile bootstrap over cases", "seed": seed,
            "cases": {case: {name: {metric: _none_for_nan(value) for metric, value in scores[name].values.items()}
                             for name in self.names} for case, scores in self.cases.items()},
            "faults": list(self.faults),
        }

    def write(self, path: Path, *, seed: int = 0) -> None:
        """Write JSON to ``path``, and a row per case and class as CSV beside it.

        Raises:
            UnwritableFolderError: A file cannot be written.
        """
        write_json(self.to_plain(seed=seed), path)
        with written_whole(path.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["case", "class", *METRICS])
            table.writerows([case, name, *scores[name].values.values()] for case, scores in self.cases.items()
                            for name in self.names)

    def _by_class(self, value: Any) -> dict[str, dict[str, Any]]:
        return {name: {metric: value(name, metric) for metric in METRICS} for name in self.names}


def evaluate_folders(predictions: Path, references: Path, *, dataset_json: dict[str, Any],
                     regions: Classes | None = None, largest_component: bool = False) -> Evaluation:
    """Score every predicted segmentation against the reference of the same file name.

    Args:
        predictions: Folder of predicted label images; sub-folders and files with another ending are passed over.
        references: Folder of reference label images.
        dataset_json: Names labels or regions, the ignore label and the file ending.
        regions: Further regions, by name.
        largest_component: Score the largest component of each prediction's foreground alone.

    Returns:
        The result. Cases whose files cannot be read, lie on different grids or hold undeclared labels are in its ``faults``.

    Raises:
        FolderNotFoundError, EmptyFolderError: One of the folders is missing, or holds no image.
        UnpairedCasesError: An image is in one folder only.

    Example:
        >>> import SimpleITK, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     predicted, true = Path(folder, "predicted"), Path(folder, "true")
        ...     for place, columns in ((predicted, 3), (true, 2)):
        ...         labels = np.uint8(np.arange(4) < columns) * np.ones((4, 4, 1), np.uint8)
        ...         place.mkdir()
        ...         SimpleITK.WriteImage(SimpleITK.GetImageFromArray(labels), str(place / "a.nii.gz"))
        ...     evaluation = evaluate_folders(predicted, true, dataset_json={"labels": {"background": 0, "core": 1},
        ...                                                                  "file_ending": ".nii.gz"})
        >>> evaluation.class_means("Dice"), evaluation.class_means("HD95")
        ({'core': 0.8}, {'core': 1.0})
    """
    ending, regions = dataset_json["file_ending"], regions or {}
    names, predicted_names = (_image_names(folder, ending) for folder in (references, predictions))
    require_equal_names(references, names, predictions, predicted_names)
    reader = find_reader(dataset_json, (references / name for name in names))
    classes = foreground_classes(dataset_json)
    score = partial(_score, {**classes, **regions}, dataset_json=dataset_json, largest_component=largest_component)
    cases: dict[str, dict[str, Scores]] = {}
    faults: list[str] = []
    for name in progress(names, "evaluating", unit="case"):
        case = name.removesuffix(ending)
        try:
            cases[case] = score(read_pair(case, predictions / name, references / name, reader=reader,
                                          declared=label_values(dataset_json)))
        except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
            faults.append(str(fault_in_scoring(error, case)))
    return Evaluation(classes, cases, regions, tuple(faults), largest_component)


def _score(classes: Classes, pair: tuple[Image, Image], *, dataset_json: dict[str, Any],
           largest_component: bool) -> dict[str, Scores]:
    """Scores of a case by class and region."""
    predicted, wanted = pair
    ignored, spacing, voxels = dataset_json["labels"].get(IGNORE), wanted.geometry.spacing, predicted.voxels
    if largest_component:
        voxels = keep_largest_component(voxels, label_values(dataset_json) - {0, ignored})
    return {name: score_class(voxels[0], wanted.voxels[0], entry, spacing=spacing, ignored=ignored)
            for name, entry in classes.items()}


def score_class(predicted: np.ndarray, wanted: np.ndarray, entry: int | Sequence[int], *, spacing: Sequence[float],
                ignored: int | None = None) -> Scores:
    """Scores of one label or region.

    Args:
        predicted: Label values, shape (Z, Y, X).
        wanted: True ones, same shape.
        entry: The value, or the values that make up the region.
        spacing: Millimetres along Z, Y, X.
        ignored: Voxels where ``wanted`` has this value count neither way.

    Example:
        >>> score_class(np.array([[[0, 1, 0, 0]]]), np.array([[[0, 0, 1, 0]]]), 1, spacing=(1, 1, 2)).values["HD95"]
        2.0
    """
    counted = np.ones(wanted.shape, bool) if ignored is None else wanted != ignored
    masks = [mask_of(labels, entry) & counted for labels in (predicted, wanted)]
    return Scores(confusion(predicted, wanted, entry, ignore_label=ignored), hausdorff_95(*masks, spacing=spacing))


def read_pair(case: str, prediction: Path, reference: Path, *, reader: type[BaseReaderWriter],
               declared: set[int]) -> tuple[Image, Image]:
    """Prediction and reference of a case.

    Args:
        case: Its name, for messages.
        prediction: File.
        reference: File.
        reader: nnU-Net's of their format.
        declared: Label values that may be there.

    Returns:
        Label values of shape (1, Z, Y, X) each.

    Raises:
        FaultyImageError: Their geometry differs, or one holds another value.
        UnreadableImageError: One cannot be read.

    Example:
        >>> import tempfile
        >>> import SimpleITK as sitk
        >>> from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.nii.gz")
        ...     sitk.WriteImage(sitk.GetImageFromArray(np.ones((2, 3, 4), np.uint8)), str(path))
        ...     predicted, wanted = read_pair("a", path, path, reader=SimpleITKIO, declared={0, 1})
        >>> predicted.voxels.shape
        (1, 2, 3, 4)
    """
    predicted, wanted = (read_image(path, tilt_reader(path, reader), labels=True) for path in (prediction, reference))
    difference = geometry_difference(predicted.geometry, wanted.geometry)
    if difference:
        raise FaultyImageError(case, f"{prediction} has {difference} in {reference}. Predict again from its images.")
    for image in (predicted, wanted):
        surplus = sorted(set(np.unique(image.voxels).tolist()) - declared)
        if surplus:
            raise FaultyImageError(case, f"{image.path} holds the value {surplus[0]:g}, which dataset.json does not name. "
                                         "Correct the image, or give the right -djfile.")
    return predicted, wanted


def _image_names(folder: Path, ending: str) -> list[str]:
    if not folder.is_dir():
        raise FolderNotFoundError(folder)
    files = sorted(path.name for path in folder.glob("[!.]*") if not path.is_dir())
    names = [name for name in files if name.endswith(ending)]
    if not names:
        raise EmptyFolderError(folder, ending)
    say_left_out(folder, [name for name in files if not name.endswith(ending) and name.lower().endswith(IMAGES)], ending)
    return names


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def keep_largest_component(labels: np.ndarray, foreground: Iterable[int]) -> np.ndarray:
    """Set all foreground but its largest component to background (0); voxels that touch by a corner are connected.

    Args:
        labels: Label values, shape (C, Z, Y, X); each channel by itself.
        foreground: Label values that count as one region.

    Returns:
        A new array of the same shape. Components of equal size are all kept where they are the largest.

    Source: nnU-Net's determine_postprocessing, first step.

    Example:
        >>> keep_largest_component(np.array([[[[1, 2, 0, 1]]]]), (1, 2)).tolist()
        [[[[1, 2, 0, 0]]]]
    """
    region = tuple(foreground)
    return np.stack([remove_all_but_largest_component_from_segmentation(channel, region) for channel in labels])
