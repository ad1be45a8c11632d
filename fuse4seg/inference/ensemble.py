"""Ensembles, of folders of predictions or of models: the mean of their probabilities, and the labels that it gives."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.case_faults import fault_of
from fuse4seg.datasets.dataset_json import foreground_classes, read_dataset_json
from fuse4seg.datasets.images import geometry_difference, read_image
from fuse4seg.datasets.sources import require_equal_names
from fuse4seg.errors import EmptyFolderError, FaultyCasesError, FaultyImageError, FolderNotFoundError, Fuse4SegError, OptionError
from fuse4seg.evaluation.postprocessing import Rule, apply_rules
from fuse4seg.evaluation.volumes import mask_of, voxels_of
from fuse4seg.files import checksum, make_writable_folder, remove_stale
from fuse4seg.inference.doubt import BoundaryEntropy, Disagreement, facts_of
from fuse4seg.inference.export_case import NPZ, SEGMENTATIONS, Export, Wanted, write_segmented
from fuse4seg.inference.model import DESCRIPTIONS, Model, ModelDescription
from fuse4seg.inference.model_plans import read_model_plans
from fuse4seg.inference.predict_folder import PLAIN, Conduct, FirstStage, claim_exports, export_of, listed_cases, predict_folder
from fuse4seg.inference.run_record import RunRecord
from fuse4seg.own_outputs import OwnOutputs, require_apart
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

#: What decides whether two models' probabilities mean the same.
CLASSES = ("labels", "regions_class_order", "file_ending")
#: What reading a damaged npz file can end in.
UNREADABLE = (OSError, ValueError, LookupError, EOFError, BadZipFile, zlib.error)


def ensemble_folders(folders: Sequence[Path], output: Path, *, wanted: Wanted = SEGMENTATIONS,
                     overwrite: bool = False) -> list[Path]:
    """Segment every case by the mean of its probabilities in several folders; faulty cases are left out.

    Args:
        folders: By ``f4s_predict --save_probabilities`` or nnU-Net: CASE.npz, CASE, dataset.json and plans.json.
        output: Gets CASE, and probabilities if wanted; is created when the first sound case is read.
        wanted: Further outputs, of which probabilities are made.
        overwrite: Also replace files in ``output`` that this tool did not write.

    Returns:
        The segmentations.

    Raises:
        FolderNotFoundError, EmptyFolderError, UnpairedCasesError, DatasetJsonError, ModelPlansError: The input.
        OptionError: Fewer than two folders, or one twice; models of different classes; or ``output`` holds the input or others'
            files.
        FaultyCasesError: Some cases could not be ensembled; the others were.
        FaultyImageError, UnreadableImageError: The only case could not be ensembled.
        UnwritableFolderError: The output.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise OptionError("-i", "takes two folders or more, each once.")
    cases = _common_cases(folders)
    descriptions = {folder: _described(folder) for folder in folders}
    require_same_classes(descriptions, flag="-i")
    description = descriptions[folders[0]]
    require_apart(output, folders, overwrite=overwrite)
    # Of no fold: the fused images are the members'.
    export = Export(description, output, (), 0, wanted)
    own = claim_exports(cases, export, conduct=Conduct(overwrite=overwrite))
    faults = ensemble_cases(cases, folders, export, own)
    if len(cases) == 1 and faults:
        raise faults[cases[0]]
    if faults:
        raise FaultyCasesError(map(str, faults.values()))
    return [output / f"{case}{description.file_ending}" for case in cases]


def ensemble_cases(cases: Sequence[str], folders: Sequence[Path], export: Export, own: OwnOutputs, *,
                   record: RunRecord | None = None) -> dict[str, Fuse4SegError]:
    """Write the ensembles of cases; returns what kept some of them from being written.

    Args:
        cases: Their names.
        folders: With CASE.npz and CASE each.
        export: Where and how to write, and which rules to apply.
        own: What may be written.
        record: Is told of every case.
    """
    faults: dict[str, Fuse4SegError] = {}
    begun = False
    for case in progress(cases, "ensembling", unit="case"):
        begin = time.perf_counter()
        try:
            found, properties = mean_probabilities(case, folders, export.description)
        except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
            faults[case] = fault_of(error, case)
            continue
        if not begun:
            begun = True
            remove_stale(make_writable_folder(export.output))
            own.note()
            export.description.write(export.output)
        labels, files = _write(case, found, properties, export)
        if record is not None:
            voxels = voxels_of(labels, foreground_classes(export.description.dataset_json))
            log.info("%s: %s", case, ", ".join(f"{name} {count} voxels" for name, count in voxels.items()))
            facts = _facts(case, found, labels, properties["spacing"], folders=folders, description=export.description)
            record.note_failed(faults)
            record.note_done(case, {f"{folder.name}/{case}.npz": checksum(folder / f"{case}.npz") for folder in folders},
                             files, output=export.output, seconds=time.perf_counter() - begin, facts=facts)
    if record is not None and begun and faults:
        record.note_failed(faults)
        record.write()
    return faults


def mean_probabilities(case: str, folders: Iterable[Path], description: ModelDescription) -> tuple[np.ndarray, dict[str, Any]]:
    """Mean of a case's probabilities, and nnU-Net's properties of its grid.

    Args:
        case: Its name.
        folders: With CASE.npz and, whose geometry counts, CASE.
        description: Of one of the models.

    Returns:
        float32, shape (classes, Z, Y, X), on the grid of the input; as nnU-Net's ``average_probabilities`` gives it.

    Raises:
        FaultyImageError, UnreadableImageError: A file is missing or damaged, or on another grid than the first.
    """
    total, first, count = None, None, 0
    for count, folder in enumerate(folders, 1):  # noqa: B007
        image = read_image(folder / f"{case}{description.file_ending}", description.reader, labels=True)
        first = first or image
        if difference := geometry_difference(image.geometry, first.geometry):
            raise FaultyImageError(case, f"{image.path} has {difference} in {first.path}. Predict both from the same images.")
        shares = _read_probabilities(case, folder / f"{case}.npz",
                                     shape=(description.label_manager.num_segmentation_heads, *image.geometry.shape))
        total = shares if total is None else total + shares
    return total / count, first.properties


def to_segmentation(probabilities: np.ndarray, description: ModelDescription, *, rules: Sequence[Rule] = (),
                    spacing: Sequence[float]) -> np.ndarray:
    """Labels of probabilities (classes, Z, Y, X), after post-processing, in the type that predictions have."""
    manager = description.label_manager
    labels = manager.convert_probabilities_to_segmentation(probabilities)
    few = len(manager.foreground_labels) < 255
    return apply_rules(labels.astype(np.uint8 if few else np.uint16), rules, spacing=spacing)


def require_same_classes(descriptions: Mapping[Any, ModelDescription], *, flag: str) -> None:
    """Make sure that models segment the same classes into the same format; ``descriptions`` is by what to call them.

    Raises:
        OptionError: They do not, or segment nothing.
    """
    (name, first), *others = descriptions.items()
    for other, description in [(name, first), *others]:
        if not description.segments:
            raise OptionError(flag, f"{other} is of a model without labels, which has no probabilities. Leave it out.")
        for entry in CLASSES:
            found, wanted = description.dataset_json.get(entry), first.dataset_json.get(entry)
            if found != wanted:
                raise OptionError(flag, f"{other} has the {entry} {found}, and {name} {wanted}. Ensemble models of the same "
                                        "classes.")


def _write(case: str, probabilities: np.ndarray, properties: dict[str, Any], export: Export) -> tuple[np.ndarray, list[Path]]:
    """Labels as they are written, and the files."""
    labels = to_segmentation(probabilities, export.description, rules=export.rules, spacing=properties["spacing"])
    wanted = probabilities if export.wanted.probabilities else None
    return labels, write_segmented(case, properties, labels, wanted, export=export)


def _facts(case: str, probabilities: np.ndarray, labels: np.ndarray, spacing: Sequence[float], *, folders: Sequence[Path],
           description: ModelDescription) -> dict[str, Any]:
    """Volumes and doubt of a case, as of a single model; the members are compared, as folds are there."""
    regions, classes = description.label_manager.has_regions, foreground_classes(description.dataset_json)
    boundary, disagreement = BoundaryEntropy(regions=regions), Disagreement(regions=regions)
    shares = torch.from_numpy(probabilities)
    # Whose softmax, or sigmoid, they are; what is certain stays finite.
    logits = torch.logit(shares, eps=1e-7) if regions else torch.log(shares.clamp(min=1e-7))
    boundary.add(logits, to_segmentation(probabilities, description, spacing=spacing))
    name = f"{case}{description.file_ending}"
    each = [read_image(folder / name, description.reader, labels=True).voxels[0] for folder in folders]
    votes = np.stack([sum(mask_of(one, entry).astype(np.uint8) for one in each) for entry in classes.values()])
    disagreement.add(torch.from_numpy(votes)[None], voters=len(each))
    return facts_of(labels, spacing, description, entropy=boundary.mean, disagreement=disagreement.value)


def _read_probabilities(case: str, path: Path, *, shape: tuple[int, ...]) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as content:
            shares = content["probabilities"]
    except UNREADABLE as error:
        raise FaultyImageError(case, f"{path} cannot be read as probabilities ({error}). Predict it again with "
                                     "--save_probabilities.") from error
    if shares.shape != tuple(shape) or shares.dtype.kind != "f" or not np.isfinite(shares).all():
        raise FaultyImageError(case, f"{path} holds {shares.dtype} of shape {shares.shape}, and not finite fractions of shape "
                                     f"{tuple(shape)}, by its segmentation and classes. Predict it again.")
    return shares.astype(np.float32)


def _common_cases(folders: Sequence[Path]) -> list[str]:
    """Names of the cases, which are the same in all folders."""
    names = []
    for folder in folders:
        if not folder.is_dir():
            raise FolderNotFoundError(folder)
        names.append(sorted(path.name for path in folder.glob("[!.]*.npz")))
        if not names[-1]:
            raise EmptyFolderError(folder, ".npz", mend="Predict with --save_probabilities.")
        require_equal_names(folders[0], names[0], folder, names[-1])
    return [name.removesuffix(".npz") for name in names[0]]


def _described(folder: Path) -> ModelDescription:
    """By what a prediction leaves beside its segmentations; which of the configurations it was does not matter here."""
    dataset_json = read_dataset_json(folder)
    plans = PlansManager(read_model_plans(folder / DESCRIPTIONS[1]))
    return ModelDescription(plans, plans.get_configuration(plans.available_configurations[0]), dataset_json)


@dataclass(frozen=True)
class Member:
    """One model of an ensemble.

    Attributes:
        name: Of its folder in the output.
        model: From ``load_model``.
        folds: Names of its sets of weights.
        record: Of its cases, by which it is known which of them are predicted.
        previous: Of a cascade, as ``predict_folder`` takes it.
    """

    name: str
    model: Model
    folds: tuple[int | str, ...]
    record: RunRecord
    previous: FirstStage | Path | None = None


def predict_ensemble(members: Sequence[Member], images: Path | Sequence[Path], output: Path, *,
                     wanted: Wanted = SEGMENTATIONS, rules: tuple[Rule, ...] = (), record: RunRecord | None = None,
                     conduct: Conduct = PLAIN) -> list[Path]:
    """Predict every case by each member, and segment it by the mean of their probabilities; faulty cases are left out.

    Args:
        members: Two or more.
        images: As for ``predict_folder``.
        output: Gets CASE; and in a folder of each member all that ``predict_folder`` writes, with CASE.npz, by which an
            interrupted run goes on.
        wanted: Attention, panels and uncertainty of each member; probabilities of the ensemble.
        rules: Post-processing of the ensemble's segmentations; members' stay as they are.
        record: Of the ensemble.
        conduct: How it is done.

    Returns:
        The ensemble's segmentations of this part.

    Raises:
        OptionError: Members segment different classes; else, and other errors, as ``predict_folder`` does.
    """
    first = members[0].model.description
    require_same_classes({member.name: member.model.description for member in members}, flag="-c")
    every = listed_cases(images, first.dataset_json)
    require_apart(output, {path.parent for case in every for path in case.files}, overwrite=conduct.overwrite)
    export = Export(first, output, (), 0, Wanted(probabilities=wanted.probabilities), rules)
    of_members = replace(wanted, probabilities=(NPZ,))
    # What is in the way of the last member is said before the first one is predicted.
    exports = (export, *(export_of(member.model, output / member.name, member.folds, of_members) for member in members))
    own, *_ = [claim_exports([case.name for case in every], each, conduct=conduct) for each in exports]
    faults: dict[str, None] = {}
    for member in members:
        try:
            predict_folder(member.model, images, output / member.name, folds=member.folds, wanted=of_members,
                           record=member.record, previous=member.previous, conduct=conduct)
        except FaultyCasesError as error:
            faults.update(dict.fromkeys(error.faults))
        member.model.network.cpu()  # makes room for the next
    names = [case.name for case in conduct.own(every)]
    done = [name for name in names if all(member.record.cases.get(name, {}).get("status") == "done" for member in members)]
    found = ensemble_cases(done, [output / member.name for member in members], export, own, record=record)
    faults.update(dict.fromkeys(map(str, found.values())))
    if faults:
        raise FaultyCasesError(faults)
    return [output / f"{name}{first.file_ending}" for name in names]
