"""What an archive of models holds: its manifest, and by that the names of all its members."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = "manifest.json"
FORMAT, FORMAT_VERSION = "fuse4seg-model", 1
PLANS, DATASET, FINGERPRINT = "plans.json", "dataset.json", "dataset_fingerprint.json"
CHECKPOINT_ENDING, WEIGHTS_ENDING, REST_ENDING = ".pth", ".safetensors", ".json"

#: Names of folders and files, the same on every system: nothing hidden, no separators, nothing that a shell would mind.
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
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
    """

    dataset: str
    trainer: str
    plans: str
    configuration: str
    folds: tuple[str, ...]
    checkpoints: tuple[str, ...]
    fingerprint: bool

    @classmethod
    def of_folder(cls, folder: Path, *, folds: Sequence[int | str], checkpoints: Sequence[str]) -> SharedModel:
        """The model in a folder DATASET/TRAINER__PLANS__CONFIGURATION.

        Raises:
            ValueError: The folder has another name.
        """
        parts = folder.name.split("__")
        if len(parts) != 3:
            raise ValueError(f"{folder.name} is not named TRAINER__PLANS__CONFIGURATION")
        return cls(folder.parent.name, *parts, tuple(map(str, folds)), tuple(checkpoints), (folder / FINGERPRINT).is_file())

    @classmethod
    def from_plain(cls, content: Any) -> SharedModel:
        """What :meth:`to_plain` gave, as it comes out of JSON.

        Raises:
            ValueError, TypeError: It is nothing of the kind, or has names that are not safe.
        """
        model = cls(**{**content, "folds": tuple(content["folds"]), "checkpoints": tuple(content["checkpoints"])})
        if not isinstance(model.fingerprint, bool):
            raise TypeError("fingerprint is neither true nor false")
        model.require_safe_names()
        return model

    def to_plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

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
        return PLANS, DATASET, *([FINGERPRINT] if self.fingerprint else [])

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
            "models": [model.to_plain() for model in models], "checksums": dict(checksums)}


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
