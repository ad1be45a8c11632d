"""The model that a fine-tuning begins with: found, read without believing it, and described by what can be taken over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fuse4seg.checkpoint import load_without_numpy
from fuse4seg.datasets.dataset_json import IGNORE, channel_names, foreground_classes, label_values
from fuse4seg.errors import OptionError
from fuse4seg.files import checksum
from fuse4seg.model_errors import CheckpointError
from fuse4seg.paths import FINAL

FLAG = "-pretrained_weights"
#: Parts of a model by the beginnings of their weights' names here; the first two are the network's own.
LEADER, FOLLOWER, HEAD, DISCRIMINATORS = "fusion.", "segmentation.", "auxiliary_head.", "discriminators."
#: Folders above a fold's checkpoint that say which model it is: dataset, trainer with plans and configuration, fold.
TOLD = 3


@dataclass(frozen=True)
class Labels:
    """What a network segments.

    Attributes:
        rows: Each output's number by the name of its class in small letters; empty for regions.
        all: As dataset.json has them, with the order of regions.
    """

    rows: Mapping[str, int]
    all: tuple[Any, ...]

    @classmethod
    def of(cls, dataset_json: Mapping[str, Any]) -> Labels:
        """Those of a dataset.json; the ignore label is no output.

        Example:
            >>> Labels.of({"labels": {"background": 0, "Tumour": 1, "ignore": 2}}).rows
            {'background': 0, 'tumour': 1}
        """
        labels = dataset_json["labels"]
        has_regions = any(isinstance(values, tuple) for values in foreground_classes(dataset_json).values())
        rows = {} if has_regions else {name.casefold(): index(values[0] if isinstance(values, list) else values)
                                       for name, values in labels.items() if name != IGNORE}
        return cls(rows, (labels, dataset_json.get("regions_class_order") if has_regions else None))


@dataclass(frozen=True)
class Origin:
    """A trained model, of ours or stock nnU-Net's, of which another training takes weights over.

    Attributes:
        path: Its checkpoint.
        record: What a checkpoint remembers: ``model``, the last parts of the path, and the file's ``sha256``.
        weights: By names that begin with one of LEADER, FOLLOWER, HEAD and DISCRIMINATORS.
        modalities: Names of its channels, in order.
        labels: Of the dataset.
        extra: Input channels of the follower behind the image: a cascade's labels.
        is_ours: Whether it fuses first; else the follower's input are the channels.
        segments: Whether its follower was trained.
        dataset: Full name of what it was trained on.
        fold: Of that.
    """

    path: Path
    record: Mapping[str, str]
    weights: Mapping[str, Tensor]
    modalities: tuple[str, ...]
    labels: Labels
    extra: int
    is_ours: bool
    segments: bool
    dataset: str = ""
    fold: int | str = "all"

    @property
    def axes(self) -> int:
        """Of the images that its convolutions work on, 2 or 3; 0 where there is none."""
        return max((weight.ndim for weight in self.weights.values()), default=2) - 2


def require_beginning(stage_1: Iterable[Path] = (), *, resume: bool, validate_only: bool) -> None:
    """Make sure that a training with FLAG is a new one.

    Args:
        stage_1: What a stage 1 would leave.
        resume: A training is to be gone on with.
        validate_only: One is to be validated.

    Raises:
        OptionError: It has begun.
    """
    if resume or validate_only:
        other = "--c" if resume else "--val"
        raise OptionError(FLAG, f"is for a new training, and {other} for one that has begun. Leave one of them out.")
    if begun := next((path for path in stage_1 if path.is_file()), None):
        raise OptionError(FLAG, f"comes too late: {begun} is of a stage 1 that began without it. Remove that file, or leave the "
                                f"flag out.")


def find_origin(model: Path, *, fold: int | str) -> Path:
    """The checkpoint that a user means.

    Args:
        model: A checkpoint, or a model's folder TRAINER__PLANS__CONFIGURATION.
        fold: Of the training that is to begin: of a folder the same one is taken, else the only one there is.

    Raises:
        OptionError: There is none, or which one is not clear.
    """
    if model.is_file() and model.suffix == ".pth":
        return model
    if not model.is_dir():
        what = "is an archive: install it with f4s_install_model" if model.suffix == ".zip" else "is neither: check the path"
        raise OptionError(FLAG, f"takes a checkpoint (.pth) or a model's folder, and {model} {what}.")
    found = sorted(path for path in model.glob(f"fold_*/{FINAL}") if path.is_file())
    own = [path for path in found if path.parent.name == f"fold_{fold}"]
    if not found:
        raise OptionError(FLAG, f"{model} holds no fold_*/{FINAL}. Give the folder TRAINER__PLANS__CONFIGURATION of a finished "
                                f"training, or a checkpoint.")
    if len(found) > 1 and not own:
        folds = ", ".join(path.parent.name for path in found)
        raise OptionError(FLAG, f"{model} has no fold_{fold}, but {folds}. Name one of their checkpoints, as {found[0]}.")
    return (own or found)[0]


def read_origin(path: Path) -> Origin:
    """Read a checkpoint of ours or of stock nnU-Net's, whoever made it: no code in it runs.

    Raises:
        CheckpointError: It is damaged, holds more than plain data, or not what a model is made of.
    """
    state = load_without_numpy(path, mend="Check the path.")
    weights = state.get("network_weights")
    if not isinstance(weights, dict):
        raise CheckpointError(path, "holds no network_weights. Give a checkpoint of f4s_train's stage 2, or of nnUNetv2_train.")
    try:
        arguments = state["init_args"]
        dataset_json, plans = arguments["dataset_json"], arguments["plans"]
        is_cascade = _previous_stage(plans["configurations"], arguments["configuration"]) is not None
        # Whoever trained it: nnU-Net's own trainer can train our network.
        is_ours = any(name.startswith(LEADER) for name in weights)
        named = {**{name if is_ours else FOLLOWER + name: weight for name, weight in weights.items()},
                 **{HEAD + name: weight for name, weight in (state.get("auxiliary_head") or {}).items()},
                 **{DISCRIMINATORS + name: weight for name, weight in (state.get("discriminators") or {}).items()}}
        plain = {name: weight for name, weight in named.items() if _is_plain(weight)}
        return Origin(path, _record(path), plain, tuple(channel_names(dataset_json)), Labels.of(dataset_json),
                      extra=one_hot_channels(dataset_json) * is_cascade, is_ours=is_ours,
                      segments=bool(foreground_classes(dataset_json)), dataset=str(plans["dataset_name"]), fold=arguments["fold"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(path, "does not say what it was trained with. Give one that f4s_train or nnUNetv2_train "
                                    "wrote.") from error


def one_hot_channels(dataset_json: Mapping[str, Any]) -> int:
    """Channels that a cascade's second stage reads beside the image: one for each label but background and ignore."""
    return len(label_values(dataset_json) - {0}) - (IGNORE in dataset_json["labels"])


def _previous_stage(configurations: Mapping[str, Any], name: str) -> str | None:
    """Of a cascade; without nnU-Net's own reading, which rebuilds networks of former versions."""
    entries = configurations[name]
    inherited = entries.get("inherits_from")
    if "previous_stage" in entries or inherited is None:
        return entries.get("previous_stage")
    return _previous_stage(configurations, inherited)


def _is_plain(weight: object) -> bool:
    """Whether a stranger's weight is an ordinary tensor that can be copied."""
    return (isinstance(weight, Tensor) and weight.layout == torch.strided and weight.device.type == "cpu"
            and not weight.is_quantized and not weight.is_complex())


def _record(path: Path) -> dict[str, str]:
    """Which model it is, without a place on this machine."""
    whole = path.absolute().parts
    is_in_model = len(whole) > TOLD and whole[-2].startswith("fold_") and "__" in whole[-3]
    return {"model": "/".join(whole[-TOLD - 1:]) if is_in_model else path.name, "sha256": checksum(path)}
