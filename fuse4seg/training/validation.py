"""Predict and score a fold's validation cases exactly as f4s_predict would predict them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.inference.export_prediction import export_prediction_from_logits

from fuse4seg.inference.precision import AUTO, choose_precision
from fuse4seg.inference.predictor import Fuse4SegPredictor
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.progress import progress

if TYPE_CHECKING:
    from fuse4seg.training.trainer import Fuse4SegTrainer


def validate_fold(trainer: Fuse4SegTrainer, *, save_probabilities: bool = False) -> dict[str, Any]:
    """Write segmentations and nnU-Net's summary.json to the fold's validation folder.

    Args:
        trainer: Initialised; deep supervision off.
        save_probabilities: Also write nnU-Net's npz files.

    Returns:
        nnU-Net's summary: metric_per_case, mean per label or region, foreground_mean.
    """
    _, cases = trainer.do_split()
    folder = Path(trainer.output_folder) / "validation"
    folder.mkdir(exist_ok=True)
    predictor = Fuse4SegPredictor(device=trainer.device, precision=choose_precision(AUTO, trainer.device))
    predictor.manual_initialization(trainer.network, trainer.plans_manager, trainer.configuration_manager, None,
                                    trainer.dataset_json, type(trainer).__name__, trainer.inference_allowed_mirroring_axes)
    predictor.mirror_fused = bool(trainer.options.to_plain()["bilevel"].get("mirror_fused"))
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases)
    for case in progress(list(dataset.identifiers), "validating", unit="case"):
        channels, _, _, properties = dataset.load_case(case)
        predictor.forget()
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(channels[:].copy())).cpu()
        export_prediction_from_logits(logits, properties, trainer.configuration_manager, trainer.plans_manager,
                                      trainer.dataset_json, str(folder / case), save_probabilities)
    return _score(trainer, folder, cases)


def _score(trainer: Fuse4SegTrainer, folder: Path, cases: Sequence[str]) -> dict[str, Any]:
    ending = trainer.dataset_json["file_ending"]
    for path in folder.glob(f"*{ending}"):
        if path.name.removesuffix(ending) not in cases:
            path.unlink()  # left over from another split: nnU-Net would score it with this one
    labels = trainer.label_manager
    with logged_prints():
        return compute_metrics_on_folder(
            str(Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"), str(folder), str(folder / "summary.json"),
            trainer.plans_manager.image_reader_writer_class(), ending,
            labels.foreground_regions if labels.has_regions else labels.foreground_labels, labels.ignore_label,
            num_processes=default_num_processes, chill=True)
