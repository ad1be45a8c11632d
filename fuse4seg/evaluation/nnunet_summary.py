"""nnU-Net's summary.json of an evaluation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import label_or_region_to_key

from fuse4seg.evaluation.folders import Evaluation, Scores


def nnunet_summary(evaluation: Evaluation, *, predictions: Path, references: Path, ending: str) -> dict[str, Any]:
    """What nnU-Net's compute_metrics_on_folder would have written, for the classes without further regions.

    Args:
        evaluation: Of ``predictions`` against ``references``.
        predictions: Its folder.
        references: Its folder.
        ending: Of the files.
    """
    keys = {name: label_or_region_to_key(entry) for name, entry in evaluation.classes.items()}
    per_case = [{"reference_file": str(references / f"{case}{ending}"), "prediction_file": str(predictions / f"{case}{ending}"),
                 "metrics": {key: _entry(scores[name]) for name, key in keys.items()}}
                for case, scores in evaluation.cases.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of a class that no case has is NaN
        mean = {key: {metric: float(np.nanmean([case["metrics"][key][metric] for case in per_case]))
                      for metric in per_case[0]["metrics"][key]} for key in keys.values()} if per_case else {}
    first = next(iter(mean.values()), {})
    return {"foreground_mean": {metric: float(np.mean([values[metric] for values in mean.values()])) for metric in first},
            "mean": mean, "metric_per_case": per_case}


def _entry(scores: Scores) -> dict[str, float]:
    counts, values = scores.counts, scores.values
    return {"Dice": values["Dice"], "FN": counts.fn, "FP": counts.fp, "IoU": values["IoU"], "TN": counts.tn, "TP": counts.tp,
            "n_pred": counts.fp + counts.tp, "n_ref": counts.fn + counts.tp}
