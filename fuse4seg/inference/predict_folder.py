"""A folder of patients in; segmentations, fused images, attention maps and panels out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from torch import Tensor

from fuse4seg.datasets.images import find_reader
from fuse4seg.datasets.integrity import require_sound_images
from fuse4seg.datasets.raw import PREDICT_ANYWAY, Case, channel_names, foreground_classes, list_cases, require_channels
from fuse4seg.errors import FaultyCasesError, FaultyImageError, Fuse4SegError, UnwritableFolderError
from fuse4seg.files import make_writable_folder, write_json, written_whole
from fuse4seg.inference.export import image_written_whole, to_input_space, write_image
from fuse4seg.inference.fuse_image import WholeImage
from fuse4seg.inference.panel import write_panel
from fuse4seg.inference.predictor import Fuse4SegPredictor
from fuse4seg.inference.preprocess_case import found_files, preprocess_case
from fuse4seg.inference.run_record import RunRecord
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
    probabilities: bool = False


def predict_folder(predictor: Fuse4SegPredictor, images: Path, output: Path, *, folds: tuple[int | str, ...],
                   wanted: Wanted = Wanted(), allow_missing: bool = False, record: RunRecord | None = None,
                   part: tuple[int, int] = (0, 1)) -> list[Path]:
    """Predict every case of a folder. All inputs are checked before the first is predicted, and faulty ones left out.

    Args:
        predictor: From ``load_predictor``.
        images: Folder of CASE_0000, CASE_0001, ... files.
        output: Gets CASE (labels, if the model was trained with any), fused/CASE (float32 in [0, 1]), and what is wanted; is
            created.
        folds: Names of the predictor's sets of weights; with several, each has its fused image in fused/fold_<n>/.
        wanted: Further outputs.
        allow_missing: Also predict cases that lack modalities; the log and missing_modalities.json in ``output`` name these.
        record: Knows the cases that are done already, and is told of every further one.
        part: This part's number, from 0, and how many there are: every so manieth case is predicted.

    Returns:
        The segmentations of this part; none from a model that was trained without labels.

    Raises:
        FolderNotFoundError, EmptyFolderError, SurplusChannelError: The folder.
        FaultyCasesError: Some cases could not be predicted; the others were.
        MissingModalityError, FaultyImageError, UnreadableImageError: The only case could not be predicted; nothing was written.
        UnwritableFolderError: The output.
    """
    dataset_json = predictor.dataset_json
    names, ending = channel_names(dataset_json), dataset_json["file_ending"]
    every = list(list_cases(images, channels=names, file_ending=ending, allow_missing=True).values())
    cases = every[part[0]::part[1]]
    done = [case for case in cases if record and record.is_done(case.name, found_files(case), output)]
    reader = find_reader(dataset_json, (path for case in every for path in found_files(case)))
    faults = {case.name: fault for case in cases if case not in done
              and (fault := _fault(case, names, reader, allow_missing=allow_missing))}
    todo = [case for case in cases if case not in done and case.name not in faults]
    if faults and not todo and not done:
        raise FaultyCasesError(map(str, faults.values())) if len(faults) > 1 else next(iter(faults.values()))
    make_writable_folder(output)
    sound = [case for case in every if case.name not in faults and (allow_missing or all(case.found))]
    _report_missing(predictor, sound, output)
    # As nnU-Net leaves them: evaluation reads labels and file ending from here.
    write_json(dataset_json, output / "dataset.json")
    write_json(predictor.plans_manager.plans, output / "plans.json")
    segments = bool(foreground_classes(dataset_json))
    if not segments:
        log.info("this model was trained without labels: it has no segmentation to give, and writes fused images alone")
    if wanted.attention and predictor.network.fusion.cross_attention is None:
        log.warning("this model has no cross-attention: there are no attention maps to write")
    if done:
        log.info("%d of %d cases are predicted already", len(done), len(cases))
    for name, fault in faults.items():
        _note_failed(record, name, fault)
    for case in progress(todo, "predicting", unit="case"):
        if (fault := _try_case(predictor, case, output, folds, wanted, record)) is not None:
            faults[case.name] = fault
            _note_failed(record, case.name, fault)
    if faults:
        raise FaultyCasesError(map(str, faults.values()))
    return [output / f"{case.name}{ending}" for case in cases] if segments else []


def _fault(case: Case, channels: Sequence[str], reader: type[BaseReaderWriter], *,
           allow_missing: bool) -> Fuse4SegError | None:
    """Why a case cannot be predicted; None where its images are sound."""
    try:
        if not allow_missing:
            require_channels(case, channels, mend=PREDICT_ANYWAY)
        require_sound_images(replace(case, images=found_files(case)), reader)
    except Fuse4SegError as error:
        return error
    return None


def _try_case(predictor: Fuse4SegPredictor, case: Case, output: Path, folds: tuple[int | str, ...], wanted: Wanted,
              record: RunRecord | None) -> Fuse4SegError | None:
    """Predict a case; gives back what is wrong with it, and raises what is wrong with the place it is written to."""
    begin = time.perf_counter()
    try:
        written = _predict_case(predictor, case, output, folds, wanted)
    except UnwritableFolderError:
        raise
    except (MemoryError, torch.OutOfMemoryError):
        return FaultyImageError(case.name, "there was not enough memory for it. Close other programs, use -device cpu, or "
                                           "predict it on a larger machine.")
    except Fuse4SegError as error:
        return error
    if record is not None:
        absent = [name for name, there in zip(channel_names(predictor.dataset_json), case.found, strict=True) if not there]
        record.note_done(case.name, found_files(case), written, output=output, seconds=time.perf_counter() - begin,
                         absent=absent)
    return None


def _note_failed(record: RunRecord | None, case: str, fault: Fuse4SegError) -> None:
    if record is not None:
        record.note_failed(case, str(fault))


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
                  wanted: Wanted) -> list[Path]:
    """Everything that is written of a case, in the order of writing."""
    channels, properties = preprocess_case(predictor, case)
    with logged_prints():
        segmentation, probabilities = _segment(predictor, channels, properties, wanted)
    written: list[Path] = []
    for fold, seen in zip(folds, predictor.seen, strict=True):
        place = f"fold_{fold}" if len(folds) > 1 else ""
        written += _export_seen(predictor, case, seen, output, place, properties, segmentation, wanted)
    if segmentation is None:
        return written
    if wanted.probabilities:
        written += _export_probabilities(case, output, properties, probabilities)
    return [*written, _export_segmentation(predictor, case, output, properties, segmentation)]


def _segment(predictor: Fuse4SegPredictor, channels: Tensor, properties: dict[str, Any],
             wanted: Wanted) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Labels and, if wanted, probabilities (K, *S) in the input's geometry; no labels from a model that only fuses."""
    if not foreground_classes(predictor.dataset_json):
        predictor.fuse_preprocessed_data(channels)
        return None, None
    logits = predictor.predict_logits_from_preprocessed_data(channels)
    found = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, predictor.plans_manager, predictor.configuration_manager, predictor.label_manager, properties,
        return_probabilities=wanted.probabilities)
    return found if wanted.probabilities else (found, None)


def _export_probabilities(case: Case, output: Path, properties: dict[str, Any], probabilities: np.ndarray) -> list[Path]:
    """As nnU-Net writes them, for its ensembling: CASE.npz and CASE.pkl."""
    arrays, geometry = output / f"{case.name}.npz", output / f"{case.name}.pkl"
    with written_whole(arrays) as temporary:
        np.savez_compressed(temporary, probabilities=probabilities)
    with written_whole(geometry) as temporary:
        save_pickle(properties, str(temporary))
    return [arrays, geometry]


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
                 properties: dict[str, Any], segmentation: np.ndarray | None, wanted: Wanted) -> list[Path]:
    """Write what the follower saw, and what the leader looked at; returns the files."""
    ending = predictor.dataset_json["file_ending"]
    space = {"plans": predictor.plans_manager, "configuration": predictor.configuration_manager}
    fused = to_input_space(seen.fused, properties, **space)[0]
    written = [make_writable_folder(output / "fused" / place) / f"{case.name}{ending}"]
    write_image(fused, written[0], properties)
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
            written.append(folder / f"{case.name}_{names[index]}{ending}")
            write_image(heat, written[-1], properties)
    if wanted.panels:
        with logged_prints():
            sources, _ = predictor.plans_manager.image_reader_writer_class().read_images([str(p) for p in found_files(case)])
        written.append(make_writable_folder(output / "panels" / place) / f"{case.name}.png")
        write_panel(written[-1], sources=sources,
                    names=[names[index] for index in there], fused=fused, segmentation=segmentation,
                    attention={there.index(index): heat for index, heat in attention.items()},
                    asking=names[reference] if reference in there else MEAN)
    return written


def _volumes(segmentation: np.ndarray, dataset_json: dict[str, Any]) -> str:
    counts = {name: int(np.isin(segmentation, value).sum()) for name, value in dataset_json["labels"].items()
              if name not in ("background", "ignore")}
    return ", ".join(f"{name} {count} voxels" for name, count in counts.items())
