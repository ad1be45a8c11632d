"""Predict and score a fold's validation cases exactly as f4s_predict would predict them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, label_or_region_to_key

from fuse4seg.checkpoint import to_plain
from fuse4seg.datasets.raw import Case
from fuse4seg.files import write_json
from fuse4seg.inference.export_case import NPZ, Export, Predicted, Wanted, export_case
from fuse4seg.inference.model import AUTO, Model, ModelDescription, choose_precision
from fuse4seg.inference.predict_case import predict_case
from fuse4seg.progress import progress

if TYPE_CHECKING:
    from fuse4seg.training.trainer import Fuse4SegTrainer


def model_of(trainer: Fuse4SegTrainer) -> Model:
    """What a trainer has trained, on its device."""
    description = ModelDescription(trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json)
    return Model(trainer.network, description, trainer.device, mirror_axes=tuple(trainer.inference_allowed_mirroring_axes or ()),
                 precision=choose_precision(AUTO, trainer.device))


def validate_fold(trainer: Fuse4SegTrainer, *, save_probabilities: bool = False) -> dict[str, Any]:
    """Write segmentations, fused images and nnU-Net's summary.json to the fold's validation folder.

    Args:
        trainer: Initialised; deep supervision off.
        save_probabilities: Also write nnU-Net's npz files.

    Returns:
        nnU-Net's summary: metric_per_case, mean per label or region, foreground_mean.
    """
    _, cases = trainer.do_split()
    folder = Path(trainer.output_folder) / "validation"
    folder.mkdir(exist_ok=True)
    model = model_of(trainer)
    export = Export(model.description, folder, (trainer.fold,), model.network.fusion.reference,
                    Wanted(probabilities=(NPZ,) if save_probabilities else ()))
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases)
    for case in progress(list(dataset.identifiers), "validating", unit="case"):
        channels, _, _, properties = dataset.load_case(case)
        made = predict_case(model, torch.from_numpy(channels[:].copy()), properties)
        export_case(Predicted(Case(case, ()), properties, made), export)
    return _score(trainer, folder, cases)


def _score(trainer: Fuse4SegTrainer, folder: Path, cases: Sequence[str]) -> dict[str, Any]:
    ending = trainer.dataset_json["file_ending"]
    for path in folder.rglob(f"*{ending}"):
        if path.name.removesuffix(ending) not in cases:
            path.unlink()  # left over from another split: it would be scored with this one
    labels = trainer.label_manager
    classes = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    references = Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"
    # One after the other: nnU-Net's own loop over them waits for ever if one of its processes is killed.
    per_case = [compute_metrics(str(references / path.name), str(path), trainer.plans_manager.image_reader_writer_class(),
                                classes, labels.ignore_label)
                for path in progress(sorted(folder.glob(f"*{ending}")), "scoring", unit="case", leave=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of a class that no case has is NaN
        mean = {one: {metric: np.nanmean([case["metrics"][one][metric] for case in per_case])
                      for metric in per_case[0]["metrics"][one]} for one in classes}
    foreground = {metric: np.mean([values[metric] for values in mean.values()]) for metric in mean[classes[0]]}
    summary = to_plain({"foreground_mean": foreground, "mean": mean, "metric_per_case": per_case})
    write_json({**summary, "mean": _with_text_keys(summary["mean"]),
                "metric_per_case": [{**case, "metrics": _with_text_keys(case["metrics"])}
                                    for case in summary["metric_per_case"]]}, folder / "summary.json")
    return summary


def _with_text_keys(by_class: dict[Any, Any]) -> dict[str, Any]:
    return {label_or_region_to_key(one): values for one, values in by_class.items()}
