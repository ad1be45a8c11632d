"""Trained models into one archive that runs no code when it is installed, the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import save_file

from fuse4seg.checkpoint import load_checkpoint, require_same_plans
from fuse4seg.datasets.dataset_json import label_values, read_dataset_json
from fuse4seg.errors import FolderNotFoundError
from fuse4seg.evaluation.postprocessing import read_rules
from fuse4seg.files import written_whole
from fuse4seg.inference.find_model import TrainedModel
from fuse4seg.inference.model import build_fitting, require_predictive
from fuse4seg.inference.model_plans import read_model_plans
from fuse4seg.model_errors import ModelArchiveError
from fuse4seg.paths import FINAL
from fuse4seg.progress import progress
from fuse4seg.sharing.archive import CHUNK
from fuse4seg.sharing.layout import MANIFEST, PLANS, REST_ENDING, WEIGHTS_ENDING, SharedModel, split_checkpoint, to_manifest

#: The earliest that a zip archive can name; real times would make every archive another one.
NO_TIME = (1980, 1, 1, 0, 0, 0)
PLAIN_FILE = (stat.S_IFREG | 0o644) << 16
UNIX = 3


def export_models(models: Sequence[TrainedModel], output: Path, *, checkpoints: Sequence[str] = (FINAL,),
                  trust: bool = False) -> None:
    """Write models into one archive, each checkpoint reduced to what prediction needs.

    Args:
        models: Each in a folder DATASET/TRAINER__PLANS__CONFIGURATION, with the folds to export.
        output: The archive; one that is there is replaced.
        checkpoints: Files in each fold.
        trust: Load what the checkpoints hold, code too; the archive holds none either way.

    Raises:
        CheckpointNotFoundError, CheckpointError, ModelPlansError, DatasetJsonError: A model could not be predicted with.
        UnreadableRecordError: Its postprocessing.json is damaged.
        UntrustedModelError: Its plans name classes that nobody could install.
        FolderNotFoundError: There is no folder for the archive.
        ModelArchiveError: A name is none that every system takes.
        UnwritableFolderError: The operating system refused to write.
    """
    shared = [_described(model, output, checkpoints) for model in models]
    folder = output.absolute().parent
    if not folder.is_dir():
        raise FolderNotFoundError(folder)
    checksums: dict[str, str] = {}
    with written_whole(output.absolute()) as temporary, ZipFile(temporary, "w", ZIP_STORED) as archive, \
            tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as scratch:
        for model, description in zip(models, shared, strict=True):
            _add_model(archive, model, description, checksums, Path(scratch) / "weights", trust=trust)
        versions = {name: version(name) for name in ("fuse4seg", "nnunetv2", "torch")}
        _add_bytes(archive, MANIFEST, _as_json(to_manifest(shared, checksums, versions)))


def _described(model: TrainedModel, output: Path, checkpoints: Sequence[str]) -> SharedModel:
    try:
        description = SharedModel.of_folder(model.folder.absolute(), folds=model.folds, checkpoints=checkpoints)
        description.require_safe_names()
    except ValueError as error:
        raise ModelArchiveError(output, f"cannot hold {model.folder}: {error}. Name the folder "
                                        "Dataset501_Name/TRAINER__PLANS__CONFIGURATION.") from error
    return description


def _add_model(archive: ZipFile, model: TrainedModel, description: SharedModel, checksums: dict[str, str], scratch: Path, *,
               trust: bool) -> None:
    """Add a model's members, checked as for prediction, and their checksums."""
    plans_file = model.folder / PLANS
    plans, dataset_json = PlansManager(read_model_plans(plans_file)), read_dataset_json(model.folder)
    read_rules([model.folder], known=label_values(dataset_json))
    for name in description.descriptions:
        member = str(description.folder / name)
        checksums[member] = _add_bytes(archive, member, (model.folder / name).read_bytes())
    for file in progress(description.weights, f"exporting {description.folder.name}", unit="checkpoint"):
        path = model.folder / file
        state = load_checkpoint(path, trust=trust)
        require_same_plans(state, path, plans.plans)
        configuration = plans.get_configuration(state["init_args"]["configuration"])
        require_predictive(state, path, dimensions=len(configuration.patch_size))
        build_fitting(plans, configuration, dataset_json, plans_file, weights={path: state["network_weights"]})
        tensors, rest = split_checkpoint(state)
        save_file(tensors, scratch)
        weights_member, rest_member = (str((description.folder / file).with_suffix(ending))
                                       for ending in (WEIGHTS_ENDING, REST_ENDING))
        checksums[weights_member] = _add_file(archive, weights_member, scratch)
        checksums[rest_member] = _add_bytes(archive, rest_member, _as_json(rest))


def _as_json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()


def _member(name: str) -> ZipInfo:
    member = ZipInfo(name, NO_TIME)
    member.external_attr, member.create_system = PLAIN_FILE, UNIX
    return member


def _add_bytes(archive: ZipFile, name: str, content: bytes) -> str:
    archive.writestr(_member(name), content)
    return hashlib.sha256(content).hexdigest()


def _add_file(archive: ZipFile, name: str, path: Path) -> str:
    member = _member(name)
    # Known beforehand, by which the archive knows whether it needs large offsets.
    member.file_size = path.stat().st_size
    with path.open("rb") as source, archive.open(member, "w") as target:
        shutil.copyfileobj(source, target, CHUNK)
        source.seek(0)
        return hashlib.file_digest(source, "sha256").hexdigest()
