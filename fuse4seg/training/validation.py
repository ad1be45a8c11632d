"""Validation of a trained fold: its cases predicted as f4s_predict predicts them, shared out among the ranks, and scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fuse4seg.inference.model import AUTO, Model, ModelDescription, choose_precision
from fuse4seg.inference.validate_fold import validate_fusion, validate_segmentations
from fuse4seg.training.distributed import leave_group

if TYPE_CHECKING:
    from fuse4seg.training.trainer import Fuse4SegTrainer


def validate(trainer: Fuse4SegTrainer, *, save_probabilities: bool = False) -> None:
    """Predict, write and score the fold's validation cases; without labels, the fusion losses of their images.

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
        for name, loss in validate_fusion(model, dataset, fold, share=share).items():
            trainer.say(f"validation {name} loss: {loss:.4f}")
        return
    trainer.set_deep_supervision_enabled(False)
    summary = validate_segmentations(model, dataset, fold, save_probabilities=save_probabilities,
                                     preprocessed=Path(trainer.preprocessed_dataset_folder_base), share=share)
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    if share.number:
        return
    for label, scores in summary["mean"].items():
        trainer.say(f"validation Dice of {label}: {scores['Dice']:.4f}")
    trainer.say(f"Mean Validation Dice: {summary['foreground_mean']['Dice']:.4f}")
