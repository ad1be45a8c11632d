"""What one finished training is worth: its segmentations, its fused images, and what they cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.comparison.prepared_data import as_grey, windows_of
from fuse4seg.comparison.stock_nnunet import TRAINING_LOG
from fuse4seg.comparison.trainings import Trial
from fuse4seg.datasets.grey_images import WHITE
from fuse4seg.datasets.raw import channel_names
from fuse4seg.errors import PlansNotFoundError
from fuse4seg.evaluation.folders import evaluate_folders
from fuse4seg.evaluation.fusion_metrics import fusion_metrics
from fuse4seg.evaluation.structural_similarity import structural_similarity
from fuse4seg.evaluation.visual_information_fidelity import SMALLEST
from fuse4seg.files import read_json, write_json
from fuse4seg.inference.fusion_rules import fuse_by_rule
from fuse4seg.inference.predictor import load_predictor
from fuse4seg.progress import progress
from fuse4seg.training.checkpoint import load_checkpoint

FINAL = "checkpoint_final.pth"
#: In the place of each training.
SCORES = "scores.json"
#: Scores of an earlier version lack some of these, and are made anew.
SCORED = {"segmentation", "largest_component"}
#: Fusion without learning that every fused image stands beside.
TRIVIAL = {"average": "mean", "maximum": "max"}
#: Makes a fused image (Z, Y, X) in 0..255 of preprocessed channels (C, Z, Y, X).
Fuse = Callable[[np.ndarray], np.ndarray]


def score_trial(trial: Trial, *, plans: dict[str, Any], source: Path, device: torch.device) -> dict[str, Any]:
    """Everything that is reported of a finished training; read from its folder if it was scored before.

    Args:
        trial: Finished.
        plans: Of the dataset.
        source: The dataset's preprocessed folder, whose channels are the sources of every fused image.
        device: Where fused images are made.
    """
    kept = trial.place / SCORES
    if kept.is_file() and kept.stat().st_mtime >= (trial.fold_folder / "validation" / "summary.json").stat().st_mtime:
        found = read_json(kept, PlansNotFoundError)
        if found.keys() >= SCORED:
            return found
    dataset_json = read_json(source / "dataset.json", PlansNotFoundError)
    evaluation, largest = (evaluate_folders(trial.fold_folder / "validation", references_of(trial, source),
                                            dataset_json=dataset_json, largest_component=alone) for alone in (False, True))
    found = {**trial.row.to_plain(), "fold": trial.fold, "seed": trial.seed, "segmentation": evaluation.to_plain(),
             "largest_component": largest.to_plain(), **costs(trial, len(evaluation.cases))}
    if (fuse := _fused_by(trial, plans, device)) is not None:
        found["fusion"] = score_fusion(fuse, list(evaluation.cases), source, plans=plans, configuration=trial.configuration,
                                       doing=f"scoring {trial.row.name}")
    write_json(found, kept)
    return found


def references_of(trial: Trial, source: Path) -> Path:
    """Folder of links to the validation cases' labels, as evaluation wants every reference to have a prediction."""
    folder = trial.place / "references"
    folder.mkdir(exist_ok=True)
    ending = read_json(source / "dataset.json", PlansNotFoundError)["file_ending"]
    for path in (trial.fold_folder / "validation").glob(f"*{ending}"):
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to((source / "gt_segmentations" / path.name).absolute())
    return folder


def costs(trial: Trial, cases: int) -> dict[str, Any]:
    """What training and validating took.

    Returns:
        ``parameters`` of all networks in use; ``pretrain_epochs`` of stage 1; ``iterations`` of an epoch;
        ``seconds_per_iteration``; ``seconds_per_case``, from the last checkpoint to the validation's summary; ``pseudo_dice`` of
        each epoch.
    """
    log = _log(trial)
    checkpoint = trial.fold_folder / FINAL
    validated = (trial.fold_folder / "validation" / "summary.json").stat().st_mtime - checkpoint.stat().st_mtime
    return {"parameters": log["parameters"], "pretrain_epochs": log["pretrain_epochs"], "iterations": trial.budget.iterations,
            "seconds_per_iteration": seconds_per_iteration(trial), "seconds_per_case": validated / cases,
            "pseudo_dice": [float(value) for value in log["mean_fg_dice"]]}


def seconds_per_iteration(trial: Trial) -> float:
    """Of a finished training's stage 2: the median over the epochs, validation batches included."""
    log = _log(trial)
    return statistics.median((end - start) / trial.budget.iterations for start, end in
                             zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=True))


def _log(trial: Trial) -> dict[str, Any]:
    """A finished training's curves and times of day, with ``parameters`` and ``pretrain_epochs``."""
    if not trial.row.ours:
        # nnU-Net's checkpoints are pickles with more than plain data.
        return {**read_json(trial.fold_folder / TRAINING_LOG, PlansNotFoundError), "pretrain_epochs": 0}
    state = load_checkpoint(trial.fold_folder / FINAL)
    # nnU-Net's U-Net holds its encoder twice.
    parameters = sum({weights.data_ptr(): weights.numel() for weights in state["network_weights"].values()}.values())
    return {**state["logging"], "parameters": parameters, "pretrain_epochs": state["options"]["pretrain_epochs"]}


def score_trivial(cases: list[str], source: Path, *, plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Fusion metrics of the trivial rows on the same cases."""
    windows = windows_of(plans, configuration)

    def by(rule: str) -> Fuse:
        return lambda channels: fuse_by_rule(list(as_grey(channels[:len(windows)], windows)), rule)

    return {name: score_fusion(by(rule), cases, source, plans=plans, configuration=configuration, doing=f"scoring the {name}")
            for name, rule in TRIVIAL.items()}


def score_fusion(fuse: Fuse, cases: list[str], source: Path, *, plans: dict[str, Any], configuration: str,
                 doing: str) -> dict[str, Any]:
    """Fusion metrics of the slices that hold foreground, sources and fused image in 0..255 as the network sees them.

    Returns:
        Per case, and as ``mean`` over the cases, the eight metrics, and the SSIM to each source by its name ("SSIM to T1").
    """
    windows = windows_of(plans, configuration)
    names = channel_names(read_json(source / "dataset.json", PlansNotFoundError))
    identifier = PlansManager(plans).get_configuration(configuration).data_identifier
    dataset = nnUNetDatasetBlosc2(str(source / identifier))
    found = {}
    for case in progress(cases, doing, unit="case"):
        data, labels, _, _ = dataset.load_case(case)
        channels, held = data[:], (np.asarray(labels[0]) > 0).any(axis=(1, 2))
        if not held.any():
            continue
        sources = with_margin(as_grey(channels[:len(windows)], windows)[:, held])
        fused = with_margin(np.clip(fuse(channels), 0, WHITE)[held].astype(np.float64))
        found[case] = {**(fusion_metrics(fused, list(sources)) if len(names) > 1 else {}), **_similarities(fused, sources, names)}
    columns = {name: [values[name] for values in found.values() if not math.isnan(values[name])]
               for name in next(iter(found.values()), {})}
    return {"mean": {name: statistics.fmean(values) if values else None for name, values in columns.items()},
            "cases": {case: {name: None if math.isnan(value) else value for name, value in values.items()}
                      for case, values in found.items()}}


def with_margin(images: np.ndarray) -> np.ndarray:
    """Images (..., Y, X) with black around those that are cropped too closely for VIF, whose windows need SMALLEST voxels."""
    lacking = [max(0, SMALLEST - extent) for extent in images.shape[-2:]]
    return np.pad(images, [(0, 0)] * (images.ndim - 2) + [(lack // 2, lack - lack // 2) for lack in lacking])


def _similarities(fused: np.ndarray, sources: np.ndarray, names: list[str]) -> dict[str, float]:
    # The metric sums over two sources: the same one twice is twice its own.
    return {f"SSIM to {name}": statistics.fmean(structural_similarity(image, [one, one]) / 2
                                                for image, one in zip(fused, source, strict=True))
            for name, source in zip(names, sources, strict=True)}


def _fused_by(trial: Trial, plans: dict[str, Any], device: torch.device) -> Fuse | None:
    """How this row fuses; None where it does not, or not from the sources at hand."""
    windows = windows_of(plans, trial.configuration)
    if trial.row.source is not None and trial.row.source[0] == "rule":
        rule = str(trial.row.source[1])
        return lambda channels: fuse_by_rule(list(as_grey(channels[:len(windows)], windows)), rule)
    if not trial.row.ours:
        return None
    predictor = load_predictor(trial.model, folds=[trial.fold], device=device)

    def fuse(channels: np.ndarray) -> np.ndarray:
        predictor.forget()
        predictor.fuse_preprocessed_data(torch.from_numpy(channels.copy()))
        return predictor.seen[0].fused[0].numpy() * WHITE

    return fuse

