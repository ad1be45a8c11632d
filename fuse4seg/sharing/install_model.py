"""Models out of an archive into the results folder, none of whose content is believed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors import SafetensorError
from safetensors.torch import load_file

from fuse4seg.checkpoint import require_same_plans, save_checkpoint
from fuse4seg.datasets.dataset_json import label_values, read_dataset_json
from fuse4seg.errors import Fuse4SegError, UnreadableRecordError, UnwritableFolderError, first_line
from fuse4seg.evaluation.postprocessing import read_rules
from fuse4seg.evaluation.volumes import FINGERPRINT
from fuse4seg.files import make_writable_folder, read_json
from fuse4seg.inference.model import build_fitting, require_predictive
from fuse4seg.inference.model_calibration import read_doubts
from fuse4seg.inference.model_plans import read_model_plans
from fuse4seg.model_errors import ModelArchiveError, ModelExistsError, UntrustedModelError
from fuse4seg.paths import RESULTS, data_root
from fuse4seg.plans import NETWORK
from fuse4seg.progress import progress
from fuse4seg.sharing.archive import opened, read_member, sound_members, unpack_member
from fuse4seg.sharing.layout import (
    MANIFEST,
    PLANS,
    REST_ENDING,
    WEIGHTS_ENDING,
    SharedModel,
    from_manifest,
    join_checkpoint,
)

log = logging.getLogger(__name__)

#: Made by others.
FOREIGN = ("It is no archive of f4s_export_model; what nnUNetv2_export_model_to_zip wrote, "
           "nnUNetv2_install_pretrained_model_from_zip installs, if you trust its maker.")


def install_models(path: Path, *, overwrite: bool = False) -> list[Path]:
    """Install every model of an archive into the results folder: all of them, or nothing.

    Nothing in it is unpickled or imported, and nothing is written outside of a temporary folder in the results folder until
    all is checked.

    Args:
        path: By :func:`~fuse4seg.sharing.export_model.export_models`.
        overwrite: Replace models that are there.

    Returns:
        The models' folders.

    Raises:
        ModelArchiveError: The archive is damaged, hostile, or none of ours.
        UntrustedModelError: Plans name classes that are not known.
        ModelExistsError: A model is there already.
        UnwritableFolderError: The results folder cannot be written to, or has no room.
    """
    with opened(path) as archive:
        members = sound_members(archive, path)
        models, checksums = _read_manifest(archive, members, path)
        results = data_root(RESULTS)
        targets = [results / model.folder for model in models]
        for target in targets:
            if os.path.lexists(target) and not overwrite:
                raise ModelExistsError(target)
        make_writable_folder(results)
        _require_room(results, sum(member.file_size for member in members.values()))
        try:
            with tempfile.TemporaryDirectory(prefix=".install-", dir=results) as scratch:
                unpacked = Path(scratch) / "new"
                _unpack(archive, members, checksums, path, unpacked)
                for model in models:
                    _make_usable(unpacked / model.folder, model, path)
                _put_in_place([unpacked / model.folder for model in models], targets, Path(scratch) / "old")
        except OSError as error:
            raise UnwritableFolderError(results, error.strerror or str(error)) from error
    for target in targets:
        _warn_of_equal_ids(target.parent)
    return targets


def _read_manifest(archive: ZipFile, members: dict[str, ZipInfo], path: Path) -> tuple[list[SharedModel], dict[str, str]]:
    """Models and checksums, of exactly the members that are there."""
    if MANIFEST not in members:
        raise ModelArchiveError(path, f"has no {MANIFEST}. {FOREIGN}")
    try:
        models, checksums = from_manifest(json.loads(read_member(archive, members[MANIFEST], path)))
    except (ValueError, RecursionError) as error:
        raise ModelArchiveError(path, f"{MANIFEST}: {first_line(error)}.") from error
    expected = {MANIFEST, *(name for model in models for name in model.members())}
    for problem, names in (("lacks the member", expected - set(members)), ("has the unknown member", set(members) - expected),
                           ("has no checksum of", expected - {MANIFEST} - set(checksums)),
                           ("has a checksum too many, of", set(checksums) - expected)):
        if names:
            raise ModelArchiveError(path, f"{problem} {min(names)[:200]!r}. Get the archive again, from its maker.")
    return models, checksums


def _require_room(results: Path, needed: int) -> None:
    free = shutil.disk_usage(results).free
    if free < needed:
        raise UnwritableFolderError(results, f"the models take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free")


def _unpack(archive: ZipFile, members: dict[str, ZipInfo], checksums: dict[str, str], path: Path, folder: Path) -> None:
    for name in progress(sorted(checksums), "unpacking", unit="file"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if unpack_member(archive, members[name], path, target) != checksums[name]:
            raise ModelArchiveError(path, f"member {name} does not match its checksum. Get the archive again.")


def _make_usable(folder: Path, model: SharedModel, path: Path) -> None:
    """Check an unpacked model, and put checkpoints in the place of tensors and JSON.

    Raises:
        ModelArchiveError: It cannot be predicted with; the message names the file as the archive does.
        UntrustedModelError: Its plans name what they should not.
    """
    try:
        plans_file = folder / PLANS
        plans, dataset_json = PlansManager(read_model_plans(plans_file)), read_dataset_json(folder)
        if model.configuration not in plans.available_configurations:
            raise ModelArchiveError(path, f"the plans of {model.folder} have no configuration {model.configuration}.")
        configuration = plans.get_configuration(model.configuration)
        if configuration.network_arch_class_name != NETWORK:
            raise UntrustedModelError(plans_file, "network_class_name", configuration.network_arch_class_name)
        if model.fingerprint:
            _require_object(read_json(folder / FINGERPRINT, ModelArchiveError), FINGERPRINT)
        for name in model.doubt_files:
            _require_doubts(folder / name, name)
        read_rules([folder], known=label_values(dataset_json))
        for file in model.weights:
            target = folder / file
            state = _joined(target, model, plans.plans, dataset_json)
            require_predictive(state, target, dimensions=len(configuration.patch_size))
            require_same_plans(state, target, plans.plans)
            build_fitting(plans, configuration, dataset_json, plans_file, weights={target: state["network_weights"]})
            save_checkpoint(state, target)
            for ending in (WEIGHTS_ENDING, REST_ENDING):
                target.with_suffix(ending).unlink()
    except UnwritableFolderError:
        raise
    # The user knows the archive, and not the folder it was unpacked to.
    except UntrustedModelError as error:
        raise ModelArchiveError(path, f"the plans of {model.folder}: {error.problem}. Do not trust this archive.") from error
    except (Fuse4SegError, ValueError) as error:
        raise ModelArchiveError(path, f"{_within_archive(error, folder, model)} Nothing was installed.") from error


def _joined(target: Path, model: SharedModel, plans: dict[str, Any], dataset_json: dict[str, Any]) -> dict[str, Any]:
    weights_file, rest_file = target.with_suffix(WEIGHTS_ENDING), target.with_suffix(REST_ENDING)
    rest = _require_object(read_json(rest_file, ModelArchiveError), rest_file.name)
    try:
        tensors = load_file(weights_file)
    # safetensors has no tensor types that we do not; a header may still name some, or none.
    except (SafetensorError, OSError, ValueError, TypeError, LookupError, RuntimeError, AttributeError) as error:
        raise ModelArchiveError(weights_file, f"holds no tensors ({first_line(error)}).") from error
    try:
        state = join_checkpoint(tensors, rest, plans=plans, dataset_json=dataset_json)
    except (ValueError, TypeError) as error:
        raise ModelArchiveError(rest_file, f"{first_line(error)}.") from error
    # A folder says what f4s_train --set changed, too; - is in no class's name.
    if (state["trainer_name"], state["init_args"]["configuration"]) != (model.trainer.partition("-")[0], model.configuration):
        raise ModelArchiveError(rest_file, "is of another trainer or configuration than its folder.")
    return state


def _require_object(content: Any, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds no JSON object.")
    return content


def _require_doubts(path: Path, name: str) -> None:
    try:
        read_doubts(path)
    except UnreadableRecordError as error:
        raise ValueError(f"{name} is no record of a validation's doubts.") from error


def _put_in_place(sources: Sequence[Path], targets: Sequence[Path], old: Path) -> None:
    """Move models to their places, all or none; what was there is put aside first, and goes with the temporary folder."""
    undo: list[tuple[Path, Path]] = []
    try:
        for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
            target.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(target):
                aside = old / str(number)
                aside.parent.mkdir(exist_ok=True)
                target.rename(aside)
                undo.append((aside, target))
            source.rename(target)
            undo.append((target, source))
    except BaseException:
        for place, origin in reversed(undo):
            place.rename(origin)
        raise


def _warn_of_equal_ids(dataset: Path) -> None:
    number = dataset.name.split("_")[0]
    others = sorted(found.name for found in dataset.parent.glob(f"{number}_*") if found.name != dataset.name)
    if others:
        log.warning("%s has the same id as %s: give -d the full name from now on", dataset.name, ", ".join(others))


def _within_archive(error: Exception, folder: Path, model: SharedModel) -> str:
    # Before it is cut to a line's length.
    return first_line(ValueError(str(error).replace(str(folder), str(model.folder))))
