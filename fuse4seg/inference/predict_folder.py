"""A folder of patients in; segmentations, fused images, attention maps and panels out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

from fuse4seg.datasets.images import find_reader
from fuse4seg.datasets.integrity import require_sound_images
from fuse4seg.datasets.raw import Case, channel_names, list_cases
from fuse4seg.files import make_writable_folder, write_json
from fuse4seg.inference.export import image_written_whole, to_input_space, write_image
from fuse4seg.inference.fuse_image import WholeImage
from fuse4seg.inference.panel import write_panel
from fuse4seg.inference.predictor import Fuse4SegPredictor
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.progress import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What to write beside segmentations and fused images."""

    attention: bool = False
    panels: bool = False


def predict_folder(predictor: Fuse4SegPredictor, images: Path, output: Path, *, folds: tuple[int | str, ...],
                   wanted: Wanted = Wanted()) -> list[Path]:
    """Predict every case of a folder; all inputs are checked before the first is predicted.

    Args:
        predictor: From ``load_predictor``.
        images: Folder of CASE_0000, CASE_0001, ... files.
        output: Gets CASE (labels), fused/CASE (float32 in [0, 1]), and what is wanted; is created.
        folds: Names of the predictor's sets of weights; with several, each has its fused image in fused/fold_<n>/.
        wanted: Further outputs.

    Returns:
        The written segmentations.

    Raises:
        FolderNotFoundError, EmptyFolderError, MissingModalityError, FaultyImageError, UnreadableImageError: The input.
        UnwritableFolderError: The output.
    """
    dataset_json = predictor.dataset_json
    cases = list_cases(images, channels=channel_names(dataset_json), file_ending=dataset_json["file_ending"])
    reader = find_reader(dataset_json, [next(iter(cases.values())).images[0]])
    for case in cases.values():
        require_sound_images(case, reader)
    make_writable_folder(output)
    # As nnU-Net leaves them: evaluation reads labels and file ending from here.
    write_json(dataset_json, output / "dataset.json")
    write_json(predictor.plans_manager.plans, output / "plans.json")
    return [_predict_case(predictor, case, output, folds, wanted)
            for case in progress(list(cases.values()), "predicting", unit="case")]


def _predict_case(predictor: Fuse4SegPredictor, case: Case, output: Path, folds: tuple[int | str, ...],
                  wanted: Wanted) -> Path:
    predictor.forget()
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    with logged_prints():
        channels, _, properties = preprocessor.run_case([str(path) for path in case.images], None, predictor.plans_manager,
                                                        predictor.configuration_manager, predictor.dataset_json)
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(channels))
    segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, predictor.plans_manager, predictor.configuration_manager, predictor.label_manager, properties)
    for fold, seen in zip(folds, predictor.seen, strict=True):
        place = f"fold_{fold}" if len(folds) > 1 else ""
        _export_seen(predictor, case, seen, output, place, properties, segmentation, wanted)
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
                 properties: dict[str, Any], segmentation: np.ndarray, wanted: Wanted) -> None:
    """Write what the follower saw, and what the leader looked at."""
    ending = predictor.dataset_json["file_ending"]
    space = {"plans": predictor.plans_manager, "configuration": predictor.configuration_manager}
    fused = to_input_space(seen.fused, properties, **space)[0]
    write_image(fused, make_writable_folder(output / "fused" / place) / f"{case.name}{ending}", properties)
    attention = None if seen.attention is None else to_input_space(seen.attention, properties, **space)
    names = channel_names(predictor.dataset_json)
    if wanted.attention and attention is not None:
        folder = make_writable_folder(output / "attention" / place)
        for name, heat in zip(names[1:], attention, strict=True):
            write_image(heat, folder / f"{case.name}_{name}{ending}", properties)
    if wanted.panels:
        with logged_prints():
            sources, _ = predictor.plans_manager.image_reader_writer_class().read_images([str(p) for p in case.images])
        write_panel(make_writable_folder(output / "panels" / place) / f"{case.name}.png", sources=sources, names=names,
                    fused=fused, attention=attention, segmentation=segmentation)


def _volumes(segmentation: np.ndarray, dataset_json: dict[str, Any]) -> str:
    counts = {name: int(np.isin(segmentation, value).sum()) for name, value in dataset_json["labels"].items()
              if name not in ("background", "ignore")}
    return ", ".join(f"{name} {count} voxels" for name, count in counts.items())
