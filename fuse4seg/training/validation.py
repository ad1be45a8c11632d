"""Validation of a trained fold: its cases predicted as f4s_predict predicts them, shared out among the ranks, and scored."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fuse4seg.errors import Fuse4SegError
from fuse4seg.inference.model import AUTO, Model, ModelDescription, choose_precision
from fuse4seg.inference.validate_fold import VALIDATION, validate_fusion, validate_segmentations
from fuse4seg.paths import RAW, data_root
from fuse4seg.report.write_report import Wish, write_report
from fuse4seg.training.distributed import leave_group

if TYPE_CHECKING:
    from fuse4seg.training.trainer import Fuse4SegTrainer

log = logging.getLogger(__name__)


def validate(trainer: Fuse4SegTrainer, *, save_probabilities: bool = False) -> None:
    """Predict, write, score and show the fold's validation cases; without labels, the fusion losses of their images.

    The ranks leave their group: they need not meet any more, and cases take them unlike times.

    Args:
        trainer: Trained.
        save_probabilities: Also write nnU-Net's npz files.
    """
    model = Model(trainer.network, ModelDescription(trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json),
                  trainer.device, mirror_axes=tuple(trainer.inference_allowed_mirroring_axes or ()),
                  precision=choose_precision(AUTO, trainer.device))
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, trainer.do_split()[1],
                                    folder_with_segs_from_previous_stage=trainer.folder_with_segs_from_previous_stage)
    fold, share = Path(trainer.output_folder), leave_group(trainer)
    if not trainer.segments:
        losses = validate_fusion(model, dataset, fold, share=share)
        if not share.number:
            _report(trainer)
        for name, loss in losses.items():
            trainer.say(f"validation {name} loss: {loss:.4f}")
        return
    trainer.set_deep_supervision_enabled(False)
    summary = validate_segmentations(model, dataset, fold, save_probabilities=save_probabilities,
                                     preprocessed=Path(trainer.preprocessed_dataset_folder_base), share=share)
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    if share.number:
        return
    # Before the scores, which are what a training says last.
    _report(trainer)
    for label, scores in summary["mean"].items():
        trainer.say(f"validation Dice of {label}: {scores['Dice']:.4f}")
    trainer.say(f"Mean Validation Dice: {summary['foreground_mean']['Dice']:.4f}")


def _report(trainer: Fuse4SegTrainer) -> None:
    """Show the validation cases; that they cannot be shown ends no training.

    Pictures alone: volumes for the viewer would take as much room as the dataset. f4s_report adds them.
    """
    try:
        images = data_root(RAW) / trainer.plans_manager.dataset_name / "imagesTr"
        labels = Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"
        wish = Wish(images=images if images.is_dir() else None, labels=labels if trainer.segments else None, viewer=False)
        log.info("report: %s", write_report(Path(trainer.output_folder) / VALIDATION, wish=wish))
    except Fuse4SegError as error:
        log.warning("the validation cases are not all in a report: %s", error)
