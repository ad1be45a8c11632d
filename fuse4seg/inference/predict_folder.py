"""A folder of patients in; segmentations, fused images, attention maps and panels out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from torch import Tensor

from fuse4seg.datasets.images import find_reader
from fuse4seg.datasets.integrity import require_sound_images
from fuse4seg.datasets.raw import Case, channel_names, foreground_classes, list_cases
from fuse4seg.files import make_writable_folder, write_json
from fuse4seg.inference.export import image_written_whole, to_input_space, write_image
from fuse4seg.inference.fuse_image import WholeImage
from fuse4seg.inference.panel import write_panel
from fuse4seg.inference.predictor import Fuse4SegPredictor
from fuse4seg.inference.preprocess_case import found_files, preprocess_case
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

#: Beside the output, where a case lacked modalities: their names by case.
MISSING = "missing_modalities.json"
#: What asks in the cross-attention where the reference is absent.
MEAN = "mean"


@dataclass(frozen=True)
class Wanted:
    """What to write beside segmentations and fused images."""

    attention: bool = False
    panels: bool = False


def predict_folder(predictor: Fuse4SegPredictor, images: Path, output: Path, *, folds: tuple[int | str, ...],
                   wanted: Wanted = Wanted(), allow_missing: bool = False) -> list[Path]:
    """Predict every case of a folder; all inputs are checked before the first is predicted.

    Args:
        predictor: From ``load_predictor``.
        images: Folder of CASE_0000, CASE_0001, ... files.
        output: Gets CASE (labels, if the model was trained with any), fused/CASE (float32 in [0, 1]), and what is wanted; is
            created.
        folds: Names of the predictor's sets of weights; with several, each has its fused image in fused/fold_<n>/.
        wanted: Further outputs.
        allow_missing: Also predict cases that lack modalities; the log and missing_modalities.json in ``output`` name these.

    Returns:
        The written segmentations; none from a model that was trained without labels.

    Raises:
        FolderNotFoundError, EmptyFolderError, MissingModalityError, SurplusChannelError, FaultyImageError,
        UnreadableImageError: The input.
        UnwritableFolderError: The output.
    """
    dataset_json = predictor.dataset_json
    cases = list_cases(images, channels=channel_names(dataset_json), file_ending=dataset_json["file_ending"],
                       allow_missing=allow_missing)
    reader = find_reader(dataset_json, found_files(next(iter(cases.values()))))
    for case in cases.values():
        require_sound_images(replace(case, images=found_files(case)), reader)
    make_writable_folder(output)
    _report_missing(predictor, list(cases.values()), output)
    # As nnU-Net leaves them: evaluation reads labels and file ending from here.
    write_json(dataset_json, output / "dataset.json")
    write_json(predictor.plans_manager.plans, output / "plans.json")
    if not foreground_classes(dataset_json):
        log.info("this model was trained without labels: it has no segmentation to give, and writes fused images alone")
    if wanted.attention and predictor.network.fusion.cross_attention is None:
        log.warning("this model has no cross-attention: there are no attention maps to write")
    written = [_predict_case(predictor, case, output, folds, wanted)
               for case in progress(list(cases.values()), "predicting", unit="case")]
    return [path for path in written if path is not None]


def _report_missing(predictor: Fuse4SegPredictor, cases: Sequence[Case], output: Path) -> None:
    """Say in the log and beside the output which cases lack what."""
    names = channel_names(predictor.dataset_json)
    missing = {case.name: [name for name, there in zip(names, case.found, strict=True) if not there] for case in cases}
    missing = {case: absent for case, absent in missing.items() if absent}
    for case, absent in missing.items():
        log.warning("%s lacks %s and is predicted from %s", case, ", ".join(absent),
                    ", ".join(name for name in names if name not in absent))
    if not missing:
        (output / MISSING).unlink(missing_ok=True)  # an earlier run's
        return
    if not predictor.modality_dropout:
        log.warning("this model never saw a case without a modality: expect worse results than from one trained with "
                    "f4s_train --modality_dropout")
    write_json(missing, output / MISSING)


def _predict_case(predictor: Fuse4SegPredictor, case: Case, output: Path, folds: tuple[int | str, ...],
                  wanted: Wanted) -> Path | None:
    channels, properties = preprocess_case(predictor, case)
    with logged_prints():
        segmentation = _segment(predictor, channels, properties)
    for fold, seen in zip(folds, predictor.seen, strict=True):
        place = f"fold_{fold}" if len(folds) > 1 else ""
        _export_seen(predictor, case, seen, output, place, properties, segmentation, wanted)
    return None if segmentation is None else _export_segmentation(predictor, case, output, properties, segmentation)


def _segment(predictor: Fuse4SegPredictor, channels: Tensor, properties: dict[str, Any]) -> np.ndarray | None:
    """Labels in the input's geometry; None from a model without labels, which only fuses."""
    if not foreground_classes(predictor.dataset_json):
        predictor.fuse_preprocessed_data(channels)
        return None
    logits = predictor.predict_logits_from_preprocessed_data(channels)
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, predictor.plans_manager, predictor.configuration_manager, predictor.label_manager, properties)


def _export_segmentation(predictor: Fuse4SegPredictor, case: Case, output: Path, properties: dict[str, Any],
                         segmentation: np.ndarray) -> Path:
    target = output / f"{case.name}{predictor.dataset_json['file_ending']}"
    with image_written_whole(target) as temporary:
        predictor.plans_manager.image_reader_writer_class().write_seg(segmentation, str(temporary), properties)
    # nnU-Net puts the spacing of TIFF files beside them.
    spacing = temporary.with_name(temporary.name.removesuffix(predictor.dataset_json["file_ending"]) + ".json")
    if spacing.is_file():
        spacing.replace(output / f"{case.name}.json")
    log.info("%s: %s", case.name, _volumes(segmentation, predictor.dataset_json))
    return target


def _export_seen(predictor: Fuse4SegPredictor, case: Case, seen: WholeImage, output: Path, place: str,
                 properties: dict[str, Any], segmentation: np.ndarray | None, wanted: Wanted) -> None:
    """Write what the follower saw, and what the leader looked at."""
    ending = predictor.dataset_json["file_ending"]
    space = {"plans": predictor.plans_manager, "configuration": predictor.configuration_manager}
    fused = to_input_space(seen.fused, properties, **space)[0]
    write_image(fused, make_writable_folder(output / "fused" / place) / f"{case.name}{ending}", properties)
    names, reference = channel_names(predictor.dataset_json), predictor.network.fusion.reference
    there = [index for index, found in enumerate(case.found) if found]
    attention: dict[int, np.ndarray] = {}
    if seen.attention is not None:
        maps = iter(to_input_space(seen.attention, properties, **space))
        by_modality = {index: next(maps) for index in range(len(names)) if index != reference}
        attention = {index: heat for index, heat in by_modality.items() if index in there}
    if wanted.attention:
        for index, heat in attention.items():
            folder = make_writable_folder(output / "attention" / place)
            write_image(heat, folder / f"{case.name}_{names[index]}{ending}", properties)
    if wanted.panels:
        with logged_prints():
            sources, _ = predictor.plans_manager.image_reader_writer_class().read_images([str(p) for p in found_files(case)])
        write_panel(make_writable_folder(output / "panels" / place) / f"{case.name}.png", sources=sources,
                    names=[names[index] for index in there], fused=fused, segmentation=segmentation,
                    attention={there.index(index): heat for index, heat in attention.items()},
                    asking=names[reference] if reference in there else MEAN)


def _volumes(segmentation: np.ndarray, dataset_json: dict[str, Any]) -> str:
    counts = {name: int(np.isin(segmentation, value).sum()) for name, value in dataset_json["labels"].items()
              if name not in ("background", "ignore")}
    return ", ".join(f"{name} {count} voxels" for name, count in counts.items())
