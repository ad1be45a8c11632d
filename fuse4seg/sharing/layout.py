"""What an archive of models holds: its manifest, the names of all its members, and each checkpoint as tensors and JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from fuse4seg.evaluation.postprocessing import POSTPROCESSING
from fuse4seg.evaluation.volumes import FINGERPRINT
from fuse4seg.inference.model_calibration import DOUBTS

MANIFEST = "manifest.json"
FORMAT, FORMAT_VERSION = "fuse4seg-model", 1
PLANS, DATASET = "plans.json", "dataset.json"
WEIGHTS_ENDING, REST_ENDING = ".safetensors", ".json"

#: Names of folders and files, the same on every system: nothing hidden, no separators, nothing that a shell would mind.
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.+=-]*"
_DATASET = re.compile(rf"Dataset\d{{3,}}_{_NAME}", re.ASCII)
_PART = re.compile(_NAME, re.ASCII)
_FOLD = re.compile(r"\d{1,6}|all", re.ASCII)
_CHECKPOINT = re.compile(rf"{_NAME}\.pth", re.ASCII)


@dataclass(frozen=True)
class SharedModel:
    """One model of an archive.

    Attributes:
        dataset: Full name.
        trainer, plans, configuration: Which together name its folder.
        folds: "0", "1", ..., "all".
        checkpoints: Files in each fold once installed, each ending with .pth.
        fingerprint: Whether its dataset_fingerprint.json is there.
        doubts: Those of the folds that were validated, so that doubt is calibrated where the model goes.
        postprocessing: Whether its postprocessing.json is there.
    """

    dataset: str
    trainer: str
    plans: str
    configuration: str
    folds: tuple[str, ...]
    checkpoints: tuple[str, ...]
    fingerprint: bool
    doubts: tuple[str, ...]
    postprocessing: bool

    @classmethod
    def of_folder(cls, folder: Path, *, folds: Sequence[int | str], checkpoints: Sequence[str]) -> SharedModel:
        """The model in a folder DATASET/TRAINER__PLANS__CONFIGURATION.

        Raises:
            ValueError: The folder has another name.
        """
        parts = folder.name.split("__")
        if len(parts) != 3:
            raise ValueError(f"{folder.name} is not named TRAINER__PLANS__CONFIGURATION")
        doubts = (str(fold) for fold in folds if (folder / f"fold_{fold}" / DOUBTS).is_file())
        return cls(folder.parent.name, *parts, tuple(map(str, folds)), tuple(checkpoints), (folder / FINGERPRINT).is_file(),
                   tuple(doubts), (folder / POSTPROCESSING).is_file())

    @classmethod
    def from_plain(cls, content: Any) -> SharedModel:
        """A model as a manifest describes it.

        Raises:
            ValueError, TypeError: It is nothing of the kind, or has names that are not safe.
        """
        model = cls(**{**content, **{entry: tuple(content[entry]) for entry in ("folds", "checkpoints", "doubts")}})
        for entry in ("fingerprint", "postprocessing"):
            if not isinstance(getattr(model, entry), bool):
                raise TypeError(f"{entry} is neither true nor false")
        if not set(model.doubts) <= set(model.folds):
            raise ValueError("doubts names other folds than folds does")
        model.require_safe_names()
        return model

    def require_safe_names(self) -> None:
        """Make sure that no name leads elsewhere, or is taken for another on some system.

        Raises:
            ValueError: One may.
        """
        named = [(_DATASET, self.dataset), *((_PART, name) for name in (self.trainer, self.plans, self.configuration)),
                 *((_FOLD, fold) for fold in self.folds), *((_CHECKPOINT, name) for name in self.checkpoints)]
        for pattern, name in named:
            if not isinstance(name, str) or not pattern.fullmatch(name) or "__" in name or name.endswith("."):
                raise ValueError(f"{name!r} is no name that every system takes")
        for names in (self.folds, self.checkpoints):
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{list(names)} is empty or names something twice")

    @property
    def folder(self) -> PurePosixPath:
        """Below the results folder, and in the archive."""
        return PurePosixPath(self.dataset, f"{self.trainer}__{self.plans}__{self.configuration}")

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Its JSON files."""
        there = ((FINGERPRINT, self.fingerprint), (POSTPROCESSING, self.postprocessing))
        return PLANS, DATASET, *(name for name, is_there in there if is_there), *self.doubt_files

    @property
    def doubt_files(self) -> list[str]:
        """What calibrates doubt, below its folder."""
        return [f"fold_{fold}/{DOUBTS}" for fold in self.doubts]

    @property
    def weights(self) -> list[PurePosixPath]:
        """Its checkpoints below its folder, once installed."""
        return [PurePosixPath(f"fold_{fold}", checkpoint) for fold in self.folds for checkpoint in self.checkpoints]

    def members(self) -> list[str]:
        """Names of its members in the archive."""
        files = [PurePosixPath(name) for name in self.descriptions]
        files += [path.with_suffix(ending) for path in self.weights for ending in (WEIGHTS_ENDING, REST_ENDING)]
        return [str(self.folder / file) for file in files]


def to_manifest(models: Sequence[SharedModel], checksums: Mapping[str, str], versions: Mapping[str, str]) -> dict[str, Any]:
    """Content of the manifest."""
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "versions": dict(versions),
            "models": [asdict(model) for model in models], "checksums": dict(checksums)}


def from_manifest(content: Any) -> tuple[list[SharedModel], dict[str, str]]:
    """Models and checksums of a manifest as it comes out of JSON.

    Raises:
        ValueError: It is none, or of a later format; the message says which.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("is no manifest of f4s_export_model")
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"has the format version {version!r}")
    if version > FORMAT_VERSION:
        raise ValueError(f"is of format {version}, and this Fuse4Seg knows up to {FORMAT_VERSION}. Update it")
    try:
        models = [SharedModel.from_plain(model) for model in content["models"]]
        checksums = dict(content["checksums"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot be used ({type(error).__name__}: {error})") from error
    if not models or len({model.folder for model in models}) < len(models):
        raise ValueError("names no model, or one twice")
    return models, checksums


#: Under this key the rest says which names share a tensor with which.
SHARED = "shared"
#: Whose type is checked when a checkpoint is put together.
REST = ("trainer_name", "configuration", "fold", "inference_allowed_mirroring_axes", "recipe", "current_epoch", "fine_tuned_from")
#: What is told of the model that a training began with.
ORIGIN = {"model", "sha256"}


def split_checkpoint(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a checkpoint, each once, and the rest as JSON takes it; what only a resume needs is left out.

    Args:
        state: A checkpoint that predicts.

    Returns:
        The distinct tensors of its network by name, on the CPU, contiguous; and the rest.
    """
    # nnU-Net's U-Net holds its encoder twice.
    first: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, weight in state["network_weights"].items():
        place = (weight.untyped_storage().data_ptr(), weight.storage_offset(), weight.shape, weight.stride(), weight.dtype)
        if weight.numel() and place in first:
            shared[name] = first[place]
        else:
            first[place] = name
            tensors[name] = weight.detach().cpu().contiguous().clone()
    axes = state["inference_allowed_mirroring_axes"]
    rest = {"trainer_name": state["trainer_name"], "configuration": state["init_args"]["configuration"],
            "fold": state["init_args"].get("fold"), "inference_allowed_mirroring_axes": None if axes is None else list(axes),
            "recipe": state.get("recipe", {}), "current_epoch": state.get("current_epoch"),
            "fine_tuned_from": state.get("fine_tuned_from"), "order": list(state["network_weights"]), SHARED: shared}
    return tensors, rest


def join_checkpoint(tensors: Mapping[str, Tensor], rest: Mapping[str, Any], *, plans: dict[str, Any],
                    dataset_json: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint that f4s_predict and stock nnU-Net take, from what :func:`split_checkpoint` gave.

    Args:
        tensors: By name.
        rest: All else, as it comes out of JSON.
        plans: The model's.
        dataset_json: The model's.

    Raises:
        ValueError: The two do not belong together, or something is missing or of another kind.
    """
    missing = [entry for entry in (*REST, "order", SHARED) if entry not in rest]
    shared, order, axes = rest.get(SHARED), rest.get("order"), rest.get("inference_allowed_mirroring_axes")
    if missing or not isinstance(shared, dict) or not isinstance(order, list) or not isinstance(axes, (list, type(None))):
        raise ValueError(f"lacks or garbles {', '.join(missing) or 'an entry'}")
    if not all(isinstance(name, str) for name in (*order, *shared.values())) or not set(shared.values()) <= set(tensors):
        raise ValueError("names tensors that are not there")
    if len(order) != len(set(order)) or set(order) != {*tensors, *shared} or set(tensors) & set(shared):
        raise ValueError("names other tensors than are there")
    if not isinstance(rest["recipe"], dict):
        raise ValueError("has a recipe that is none")
    origin = rest["fine_tuned_from"]
    if origin is not None and not (isinstance(origin, dict) and origin.keys() == ORIGIN
                                   and all(isinstance(told, str) and told.isprintable() for told in origin.values())):
        raise ValueError("tells what it was fine-tuned from in another way")
    return {
        "network_weights": {name: tensors[shared.get(name, name)] for name in order},
        "init_args": {"plans": plans, "configuration": rest["configuration"], "fold": rest["fold"],
                      "dataset_json": dataset_json},
        "trainer_name": rest["trainer_name"],
        "inference_allowed_mirroring_axes": None if axes is None else tuple(axes),
        "recipe": rest["recipe"],
        "current_epoch": rest["current_epoch"],
        "fine_tuned_from": origin,
    }
