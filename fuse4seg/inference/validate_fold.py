"""Validation of a fold: its cases predicted as f4s_predict predicts them, written, and scored."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.export_prediction import resample_and_save
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from torch import Tensor

from fuse4seg.colour import luma
from fuse4seg.datasets.dataset_json import channel_names
from fuse4seg.datasets.presence import PRESENT, presence_of
from fuse4seg.datasets.raw import Case
from fuse4seg.evaluation.bootstrap import defined_mean
from fuse4seg.evaluation.nnunet_summary import summarise_folder
from fuse4seg.evaluation.volumes import read_training_volumes
from fuse4seg.files import make_writable_folder, write_json
from fuse4seg.inference.case_share import WHOLE, CaseShare
from fuse4seg.inference.export_case import NPZ, SEGMENTATIONS, Export, Predicted, Wanted, export_case
from fuse4seg.inference.input_space import read_levels
from fuse4seg.inference.model import Model, ModelDescription
from fuse4seg.inference.model_calibration import calibration_line, model_calibration, write_doubts
from fuse4seg.inference.predict_case import CasePrediction, predict_case
from fuse4seg.inference.preprocess_case import with_one_hot
from fuse4seg.inference.run_record import RUN, RunRecord, describe_run, options_of
from fuse4seg.losses.fusion import OF_EACH, OF_THE_STRONGEST, image_losses
from fuse4seg.nnunet_output import logged_prints
from fuse4seg.paths import FINAL, RAW
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

#: Folders in the fold's, and beside the folds.
VALIDATION, NEXT_STAGE = "validation", "predicted_next_stage"
#: In the first of these, of a model that segments nothing.
FUSION_LOSSES = "fusion_losses.json"
#: Entry of a case in the record, as long as there are no means.
LOSSES = "losses"


def validate_segmentations(model: Model, dataset: nnUNetBaseDataset, fold: Path, *, preprocessed: Path,
                           save_probabilities: bool = False, share: CaseShare = WHOLE) -> dict[str, Any]:
    """Write segmentations, fused images, their record and nnU-Net's summary.json; and what a cascade's next stage is trained on.

    Args:
        model: With labels, as trained.
        dataset: The fold's validation cases, preprocessed.
        fold: The fold's folder; what its validation folder holds of other cases is deleted.
        preprocessed: The dataset's folder of preprocessed data.
        save_probabilities: Also write nnU-Net's npz files.
        share: The cases that this process predicts; another does the rest.

    Returns:
        nnU-Net's summary: metric_per_case, mean per label or region, foreground_mean; nothing but to the first of several.
    """
    wanted = Wanted(probabilities=(NPZ,)) if save_probabilities else SEGMENTATIONS
    volumes = read_training_volumes(preprocessed)
    model = replace(model, description=replace(model.description, volumes=volumes))
    record = _record(model, fold, wanted, share, dataset=preprocessed.name)
    for case, _, made in _predicted(model, dataset, fold, wanted, record, share):
        for stage in model.description.configuration.next_stage_names or ():
            _hand_on(case, made, model.description, preprocessed=preprocessed, folder=fold.parent / NEXT_STAGE / stage)
    if not _gather(record, share):
        return {}
    summary = summarise_folder(fold / VALIDATION, preprocessed / "gt_segmentations", dataset_json=model.description.dataset_json,
                               reader=model.description.reader)
    write_doubts(_doubts(summary, record, model.description), fold)
    _calibrate(record, fold.parent)
    # Last, as it tells that the fold is validated.
    write_json(summary, fold / VALIDATION / "summary.json")
    return summary


def validate_fusion(model: Model, dataset: nnUNetBaseDataset, fold: Path, *, share: CaseShare = WHOLE) -> dict[str, float]:
    """Write fused images and FUSION_LOSSES, their likeness to the sources, where no labels say more; arguments as above.

    Returns:
        Mean over the cases of each loss between images, trained or not, on the grid that the network works on; nothing but to
        the first of several processes.
    """
    record = _record(model, fold, SEGMENTATIONS, share, dataset=model.description.plans.dataset_name)
    for case, channels, made in _predicted(model, dataset, fold, SEGMENTATIONS, record, share):
        record.cases[case][LOSSES] = _fusion_losses(model, channels, made)
    if not _gather(record, share):
        return {}
    reports = [record.cases[case].pop(LOSSES) for case in dataset.identifiers]
    record.write()
    means = {name: sum(report[name] for report in reports) / len(reports) for name in reports[0]}
    write_json(means, fold / VALIDATION / FUSION_LOSSES)
    return means


def _record(model: Model, fold: Path, wanted: Wanted, share: CaseShare, *, dataset: str) -> RunRecord:
    """As that of f4s_predict; the input is where the raw images are, if that is known. The first process's is that of all."""
    raw = os.environ.get(RAW)
    images = Path(raw, dataset, "imagesTr") if raw else None
    name = fold.name.removeprefix("fold_")
    made_by = describe_run(fold.parent, folds=[int(name) if name.isdecimal() else name], checkpoint=FINAL,
                           device=str(model.device), options=options_of(model, wanted),
                           images=images if images and images.is_dir() else None)
    return RunRecord(fold / VALIDATION / (f".{share.number}_{RUN}" if share.number else RUN), made_by)


def _gather(record: RunRecord, share: CaseShare) -> bool:
    """Bring the records of all processes together; returns whether this is the first, which goes on with all cases."""
    found = share.gather(record.path.parent, record.cases)
    if found is None:
        record.path.unlink(missing_ok=True)
        return False
    record.cases = found
    record.write()
    return True


def _doubts(summary: dict[str, Any], record: RunRecord, description: ModelDescription) -> Iterator[dict[str, float]]:
    """What calibration needs of each case: its mean Dice over the classes that have one, its doubt, and its volume."""
    for entry in summary["metric_per_case"]:
        case = record.cases[Path(entry["prediction_file"]).name.removesuffix(description.file_ending)]
        yield {"dice": defined_mean(scores["Dice"] for scores in entry["metrics"].values()), "doubt": case["doubt"]["score"],
               "volume": sum(case["volumes"].values())}


def _calibrate(record: RunRecord, model: Path) -> None:
    """Note and say what doubt is worth, by this fold and those that were validated before."""
    found = model_calibration(model)
    if found is None:
        return
    record.made_by["calibration"] = found
    record.write()
    log.info(calibration_line(found))


def _predicted(model: Model, dataset: nnUNetBaseDataset, fold: Path, wanted: Wanted,
               record: RunRecord, share: CaseShare) -> Iterator[tuple[str, Tensor, CasePrediction]]:
    """Names, preprocessed channels and predictions of the cases, each after it is written."""
    description, cases, folder = model.description, list(dataset.identifiers), make_writable_folder(fold / VALIDATION)
    # Left over from another split: they would be scored with this one. Files that begin with a dot are being written.
    for path in folder.rglob(f"[!.]*{description.file_ending}") if share.number == 0 else ():
        if path.name.removesuffix(description.file_ending) not in cases:
            path.unlink()
    # Of an earlier validation, whose weights may have been others.
    for case in share.take(cases):
        for ending in (".npz", ".pkl"):
            (folder / f"{case}{ending}").unlink(missing_ok=True)
    export = Export(description, folder, ("",), model.network.fusion.reference, wanted)
    for case in progress(share.take(cases), "validating", unit="case"):
        images, _, previous, properties = dataset.load_case(case)
        # nnU-Net opens them as files that only read.
        channels = images[:].copy() if previous is None else with_one_hot(images[:], previous[:], description)
        begin = time.perf_counter()
        made = predict_case(model, torch.from_numpy(channels), properties, present=properties.get(PRESENT))
        seconds = time.perf_counter() - begin
        exported = export_case(Predicted(Case(case, ()), properties, made), export)
        record.note_done(case, {}, exported.files, output=folder, seconds=seconds + exported.seconds, facts=exported.facts,
                         absent=_absent(properties, description))
        yield case, torch.from_numpy(channels), made


def _absent(properties: dict[str, Any], description: ModelDescription) -> list[str]:
    names = channel_names(description.dataset_json)
    return [name for name, there in zip(names, presence_of(properties, len(names)), strict=True) if not there]


def _hand_on(case: str, made: CasePrediction, description: ModelDescription, *, preprocessed: Path,
             folder: Path) -> None:
    """Leave a case's labels in the folder of a cascade's next stage, on the grid of that, which is trained on them."""
    there = preprocessed / description.plans.get_configuration(folder.name).data_identifier
    if not (there / f"{case}.pkl").is_file():
        log.warning("%s is not left for %s, of which it is not preprocessed: do that and validate again (--val)", case,
                    folder.name)
        return
    kind = infer_dataset_class(str(there))
    shape = kind(str(there), [case]).load_case(case)[0].shape[1:]
    with logged_prints():
        resample_and_save(torch.from_numpy(made.logits).float(), shape, str(make_writable_folder(folder) / case),
                          description.plans, description.configuration, made.space, description.dataset_json,
                          default_num_processes, kind)


@torch.no_grad()
def _fusion_losses(model: Model, channels: Tensor, made: CasePrediction) -> dict[str, float]:
    """Of the exported image against its sources (C, Z, Y, X), whose slices count one by one in 2D."""
    fused, _ = read_levels(made.fused[0], made.space["spacing"], description=model.description)
    flat = len(model.patch_size) == 2
    image, whole = (part.transpose(0, 1) if flat else part.unsqueeze(0) for part in (torch.from_numpy(fused), channels))
    has = torch.tensor(presence_of(made.space, model.network.modalities)).expand(len(whole), -1)
    sources, _, present = model.network.sources(whole.to(model.device), has)
    parts = image_losses(luma(image.to(model.device)), sources, [*OF_THE_STRONGEST, *OF_EACH], present=present)
    return {name: float(part) for name, part in parts.items()}
