"""nnU-Net's summary.json."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import label_or_region_to_key
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from fuse4seg.datasets.dataset_json import IGNORE, foreground_classes
from fuse4seg.datasets.images import read_image
from fuse4seg.evaluation.folders import Evaluation
from fuse4seg.evaluation.overlap import Confusion, confusion, dice, iou
from fuse4seg.progress import progress


def nnunet_summary(evaluation: Evaluation, *, predictions: Path, references: Path, ending: str) -> dict[str, Any]:
    """What nnU-Net's compute_metrics_on_folder would have written, for the classes without further regions.

    Args:
        evaluation: Of ``predictions`` against ``references``.
        predictions: Its folder.
        references: Its folder.
        ending: Of the files.

    Example:
        >>> from fuse4seg.evaluation.folders import Scores
        >>> evaluation = Evaluation({"core": 1}, {"a": {"core": Scores(Confusion(tp=3, fp=1, fn=1, tn=7), hd95=2.0)}}, {})
        >>> summary = nnunet_summary(evaluation, predictions=Path("predicted"), references=Path("true"), ending=".nii.gz")
        >>> summary["foreground_mean"]["Dice"]
        0.75
    """
    keys = {name: label_or_region_to_key(entry) for name, entry in evaluation.classes.items()}
    return _summary({(predictions / f"{case}{ending}", references / f"{case}{ending}"):
                     {key: scores[name].counts for name, key in keys.items()} for case, scores in evaluation.cases.items()})


def summarise_folder(predictions: Path, references: Path, *, dataset_json: dict[str, Any],
                     reader: type[BaseReaderWriter]) -> dict[str, Any]:
    """The same of a folder, without the distances between surfaces, which take their time.

    Args:
        predictions: Folder of label images, on the grids of their references.
        references: Folder that has a label image for each of them, and may have others.
        dataset_json: Names labels or regions, the ignore label and the file ending.
        reader: nnU-Net's, of the files.

    Raises:
        UnreadableImageError: An image is missing or damaged.

    Example:
        >>> import tempfile
        >>> import SimpleITK as sitk
        >>> from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
        >>> labels = {"labels": {"background": 0, "core": 1}, "file_ending": ".nii.gz"}
        >>> with tempfile.TemporaryDirectory() as place:
        ...     sitk.WriteImage(sitk.GetImageFromArray(np.eye(4, dtype=np.uint8)[None]), f"{place}/a.nii.gz")
        ...     summary = summarise_folder(Path(place), Path(place), dataset_json=labels, reader=SimpleITKIO)
        >>> summary["foreground_mean"]["Dice"]
        1.0
    """
    keys = {label_or_region_to_key(entry): entry for entry in foreground_classes(dataset_json).values()}
    ignored, counts = dataset_json["labels"].get(IGNORE), {}
    for path in progress(sorted(predictions.glob(f"[!.]*{dataset_json['file_ending']}")), "scoring", unit="case", leave=False):
        pair = path, references / path.name
        predicted, wanted = (read_image(file, reader, labels=True).voxels for file in pair)
        counts[pair] = {key: confusion(predicted, wanted, entry, ignore_label=ignored) for key, entry in keys.items()}
    return _summary(counts)


def _summary(counts: Mapping[tuple[Path, Path], Mapping[str, Confusion]]) -> dict[str, Any]:
    """Of counted voxels by class, by files of prediction and reference."""
    per_case = [{"reference_file": str(reference), "prediction_file": str(prediction),
                 "metrics": {key: _entry(counted) for key, counted in by_class.items()}}
                for (prediction, reference), by_class in counts.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of a class that no case has is NaN
        mean = {key: {metric: float(np.nanmean([case["metrics"][key][metric] for case in per_case]))
                      for metric in entry} for key, entry in per_case[0]["metrics"].items()} if per_case else {}
    first = next(iter(mean.values()), {})
    return {"foreground_mean": {metric: float(np.mean([values[metric] for values in mean.values()])) for metric in first},
            "mean": mean, "metric_per_case": per_case}


def _entry(counts: Confusion) -> dict[str, float]:
    return {"Dice": dice(counts), "FN": counts.fn, "FP": counts.fp, "IoU": iou(counts), "TN": counts.tn, "TP": counts.tp,
            "n_pred": counts.fp + counts.tp, "n_ref": counts.fn + counts.tp}
