"""What one finished training is worth: its segmentations, its fused images, and what they cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.checkpoint import load_checkpoint
from fuse4seg.colour import WHITE, chroma, luma
from fuse4seg.comparison.fused_images import Fuse, by_rule, fused_by
from fuse4seg.comparison.prepared_data import as_grey, windows_of
from fuse4seg.comparison.stock_nnunet import TRAINING_LOG
from fuse4seg.comparison.trainings import Trial
from fuse4seg.datasets.dataset_json import channel_names, foreground_classes
from fuse4seg.datasets.presence import PRESENT
from fuse4seg.datasets.splits import read_splits
from fuse4seg.errors import PlansNotFoundError
from fuse4seg.evaluation.folders import evaluate_folders
from fuse4seg.evaluation.fusion_metrics import fusion_metrics
from fuse4seg.evaluation.ssim import ssim
from fuse4seg.evaluation.vif import SMALLEST
from fuse4seg.evaluation.visibility import visibility
from fuse4seg.files import make_writable_folder, read_json, write_json
from fuse4seg.inference.export_case import FUSED
from fuse4seg.inference.validate_fold import VALIDATION
from fuse4seg.paths import FINAL
from fuse4seg.progress import progress

#: In the place of each training.
SCORES = "scores.json"
#: Of the scores, "visibility" and the two classes of a boundary.
VISIBILITY = "visibility"
#: Scores of an earlier version lack some of these, and are made anew.
SCORED = {"segmentation", "largest_component"}
#: Fusion without learning that every fused image stands beside.
TRIVIAL = {"average": "mean", "maximum": "max"}
#: All sources as the channels of one image: the bound of visibility.
TOGETHER = "all_sources"


def score_trial(trial: Trial, *, plans: dict[str, Any], source: Path) -> dict[str, Any]:
    """Everything that is reported of a finished training; read from its folder if it was scored before.

    Args:
        trial: Finished.
        plans: Of the dataset.
        source: The dataset's preprocessed folder, whose channels are the sources of every fused image.
    """
    kept = trial.place / SCORES
    if kept.is_file() and kept.stat().st_mtime >= trial.record.stat().st_mtime:
        found = read_json(kept, PlansNotFoundError)
        if found.keys() >= SCORED:
            return found
    dataset_json = read_json(source / "dataset.json", PlansNotFoundError)
    evaluation, largest = (evaluate_folders(trial.fold_folder / VALIDATION, references_of(trial, source),
                                            dataset_json=dataset_json, largest_component=alone) for alone in (False, True))
    found = {**trial.row.to_plain(), "fold": trial.fold, "seed": trial.seed, "segmentation": evaluation.to_plain(),
             "largest_component": largest.to_plain(), **costs(trial, len(evaluation.cases))}
    if (fuse := _fused_by(trial, plans, source)) is not None:
        found["fusion"] = score_fusion(fuse, list(evaluation.cases), source, plans=plans, configuration=trial.configuration,
                                       doing=f"scoring {trial.row.name}")
    write_json(found, kept)
    return found


def score_fusion_alone(trial: Trial, cases: list[str], *, plans: dict[str, Any], source: Path) -> dict[str, Any]:
    """The same of a row where nothing is labelled: its fused images, in all slices that hold tissue.

    Args:
        trial: Finished, or one of a row that is not trained.
        cases: That its fold validates.
        plans: Of the dataset.
        source: The dataset's preprocessed folder.
    """
    kept = trial.place / SCORES
    if kept.is_file() and (not trial.row.ours or kept.stat().st_mtime >= trial.record.stat().st_mtime):
        return read_json(kept, PlansNotFoundError)
    score = partial(score_fusion, cases=cases, source=source, plans=plans, configuration=trial.configuration)
    found = {**trial.row.to_plain(), "fold": trial.fold, "seed": trial.seed,
             **({"iterations": trial.budget.iterations} if trial.row.ours else {}),
             "fusion": score(_fused_by(trial, plans, source), doing=f"scoring {trial.row.name}")}
    write_json(found, make_writable_folder(trial.place) / SCORES)
    return found


def _fused_by(trial: Trial, plans: dict[str, Any], source: Path) -> Fuse | None:
    by = trial if trial.row.ours else trial.first
    exported = None if by is None else by.fold_folder / VALIDATION / FUSED
    return fused_by(trial.row, exported, source, plans=plans, configuration=trial.configuration)


def validation_cases(source: Path, fold: int, *, plans: dict[str, Any], configuration: str) -> list[str]:
    """Cases that a fold validates, as the file of splits says, or as nnU-Net would write it."""
    data = source / PlansManager(plans).get_configuration(configuration).data_identifier
    splits = read_splits(source) or generate_crossval_split(sorted(nnUNetDatasetBlosc2(str(data)).identifiers))
    return sorted(splits[fold]["val"])


def references_of(trial: Trial, source: Path) -> Path:
    """Folder of links to the validation cases' labels, as evaluation wants every reference to have a prediction."""
    folder = trial.place / "references"
    folder.mkdir(exist_ok=True)
    ending = read_json(source / "dataset.json", PlansNotFoundError)["file_ending"]
    for path in (trial.fold_folder / VALIDATION).glob(f"*{ending}"):
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
    validated = trial.record.stat().st_mtime - checkpoint.stat().st_mtime
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
        log = {**read_json(trial.fold_folder / TRAINING_LOG, PlansNotFoundError), "pretrain_epochs": 0}
        return log if trial.first is None else _with_its_leader(log, trial.first)
    state = load_checkpoint(trial.fold_folder / FINAL)
    # nnU-Net's U-Net holds its encoder twice.
    parameters = sum({weights.data_ptr(): weights.numel() for weights in state["network_weights"].values()}.values())
    return {**state["logging"], "parameters": parameters, "pretrain_epochs": state["recipe"]["pretraining"]["epochs"]}


def _with_its_leader(log: dict[str, Any], fusing: Trial) -> dict[str, Any]:
    """The leader counts as what it is in use, and its training as a stage 1."""
    state = load_checkpoint(fusing.fold_folder / FINAL)
    leader = sum(weights.numel() for name, weights in state["network_weights"].items() if name.startswith("fusion."))
    training = state["recipe"]["training"]
    return {**log, "parameters": log["parameters"] + leader,
            "pretrain_epochs": state["recipe"]["pretraining"]["epochs"] + training["epochs"]}


def score_trivial(cases: list[str], source: Path, *, plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Fusion metrics of the trivial rows on the same cases: fixed fusions, each source, and all of them side by side."""
    dataset_json = read_json(source / "dataset.json", PlansNotFoundError)
    names = channel_names(dataset_json)
    by: dict[str, Fuse] = {name: by_rule(rule) for name, rule in TRIVIAL.items()}
    by |= {name: partial(_copied, modality=index) for index, name in enumerate(names)}
    score = partial(score_fusion, cases=cases, source=source, plans=plans, configuration=configuration)
    found = {name: score(fuse, doing=f"scoring {name}") for name, fuse in by.items()}
    if len(names) > 1 and foreground_classes(dataset_json):
        # Three sources are no red, green and blue.
        found[TOGETHER] = _visibility_alone(score(lambda _case, sources: sources, doing=f"scoring {TOGETHER}"))
    return found


def _visibility_alone(scores: dict[str, Any]) -> dict[str, Any]:
    def kept(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name.startswith(VISIBILITY)}

    return {"mean": kept(scores["mean"]), "cases": {case: kept(values) for case, values in scores["cases"].items()}}


def _copied(_case: str, sources: np.ndarray, *, modality: int) -> np.ndarray:
    return sources[modality:modality + 1]


def score_fusion(fuse: Fuse, cases: list[str], source: Path, *, plans: dict[str, Any], configuration: str,
                 doing: str) -> dict[str, Any]:
    """Fusion metrics of the slices that hold foreground, sources and fused image in 0..255 as the network sees them.

    Where nothing is labelled, of all slices that hold tissue, and of these metrics alone. Cases that lack modalities are left
    out: sources that are not there are like nothing.

    Returns:
        Per case, and as ``mean`` over the cases where each is defined: of the luma of images of one or three channels the fusion
        metrics and the SSIM to each source by its name ("SSIM to T1"); of three channels the mean chroma of background and of
        foreground, in grey levels; of all, the visibility of each boundary ("visibility
        core|oedema"); in ``mean`` also that of all boundaries, "visibility".
    """
    windows = windows_of(plans, configuration)
    dataset_json = read_json(source / "dataset.json", PlansNotFoundError)
    names, classes, labelled = channel_names(dataset_json), _single_labels(dataset_json), bool(foreground_classes(dataset_json))
    identifier = PlansManager(plans).get_configuration(configuration).data_identifier
    dataset = nnUNetDatasetBlosc2(str(source / identifier))
    found = {}
    for case in progress(cases, doing, unit="case"):
        data, labels, _, properties = dataset.load_case(case)
        if PRESENT in properties:
            continue
        truth, sources = np.asarray(labels[0]), as_grey(data[:len(windows)], windows)
        held = (truth > 0 if labelled else sources.any(axis=0)).any(axis=(1, 2))
        if not held.any():
            continue
        fused = np.clip(fuse(case, sources), 0, WHITE).astype(np.float64)
        found[case] = _told_apart(fused, truth, sources, classes) if labelled else {}
        if len(fused) in (1, 3):
            found[case] |= _likeness(luma(fused[None])[0, 0], sources, names, held)
    return {"mean": _means(list(found.values())),
            "cases": {case: {name: None if math.isnan(value) else value for name, value in values.items()}
                      for case, values in found.items()}}


def _told_apart(fused: np.ndarray, truth: np.ndarray, sources: np.ndarray, classes: dict[str, int]) -> dict[str, float]:
    """Visibility of each boundary and, in colour, the chroma of background and foreground."""
    seen = visibility(fused, truth, (truth >= 0) & sources.any(axis=0), classes=classes)
    found = {f"{VISIBILITY} {boundary}": value for boundary, value in seen.items()}
    if len(fused) == 3:
        found |= {f"chroma of {part}": float(chroma(fused[None])[0, 0][where].mean()) for part, where in
                  (("background", (truth == 0) & sources.any(axis=0)), ("foreground", truth > 0)) if where.any()}
    return found


def _means(cases: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """Of each value over the cases that have it, and of the boundaries' visibility."""
    names = list(dict.fromkeys(name for values in cases for name in values))
    columns = {name: [values[name] for values in cases if not math.isnan(values.get(name, math.nan))] for name in names}
    means = {name: statistics.fmean(values) if values else None for name, values in columns.items()}
    boundaries = [value for name, value in means.items() if name.startswith(f"{VISIBILITY} ") and value is not None]
    return {**means, **({VISIBILITY: statistics.fmean(boundaries)} if boundaries else {})}


def _single_labels(dataset_json: dict[str, Any]) -> dict[str, int]:
    """Label values by their names, which regions have none of."""
    return {name: values for name, values in foreground_classes(dataset_json).items() if isinstance(values, int)}


def _likeness(fused: np.ndarray, sources: np.ndarray, names: list[str], held: np.ndarray) -> dict[str, float]:
    """The fusion metrics, and the SSIM to each source, of a grey image (Z, Y, X) in the slices where ``held`` is True."""
    fused, sources = with_margin(fused[held]), with_margin(sources[:, held])
    return {**(fusion_metrics(fused, list(sources)) if len(names) > 1 else {}), **_similarities(fused, sources, names)}


def with_margin(images: np.ndarray) -> np.ndarray:
    """Images (..., Y, X) with black around those that are cropped too closely for VIF, whose windows need SMALLEST voxels."""
    lacking = [max(0, SMALLEST - extent) for extent in images.shape[-2:]]
    return np.pad(images, [(0, 0)] * (images.ndim - 2) + [(lack // 2, lack - lack // 2) for lack in lacking])


def _similarities(fused: np.ndarray, sources: np.ndarray, names: list[str]) -> dict[str, float]:
    # The metric sums over two sources: the same one twice is twice its own.
    return {f"SSIM to {name}": statistics.fmean(ssim(image, [one, one]) / 2
                                                for image, one in zip(fused, source, strict=True))
            for name, source in zip(names, sources, strict=True)}
