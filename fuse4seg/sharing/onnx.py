"""Trained models as ONNX files, for programs that have neither PyTorch nor this package."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fuse4seg import __version__
from fuse4seg.datasets.dataset_json import channel_names
from fuse4seg.errors import OptionError
from fuse4seg.evaluation.postprocessing import POSTPROCESSING
from fuse4seg.files import make_writable_folder, write_json, written_whole
from fuse4seg.inference.find_model import TrainedModel
from fuse4seg.inference.model import Model, load_model
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.own_outputs import claim_outputs

log = logging.getLogger(__name__)

#: Files in each fold's folder, and beside the folds.
LEADER, FOLLOWER, DESCRIPTION = "leader.onnx", "follower.onnx", "model.json"
#: The program that comes with them, a file of this folder.
PROGRAM = "run_onnx.py"
#: What PyTorch's exporter needs.
PACKAGES = ("onnx", "onnxscript")
#: Samples of the batch that is traced; a batch of one would be taken for a constant.
TRACED = 2


class _Leader(nn.Module):
    """Normalised modalities (B, N, *patch) to the fused image (B, C, *patch), whose levels are those of the exported file."""

    def __init__(self, network: FuseThenSegment) -> None:
        super().__init__()
        self.network = network

    def forward(self, channels: Tensor) -> Tensor:
        return self.network.fuse(channels).fused.image


class _Follower(nn.Module):
    """The fused image in [0, 1], shape (B, C, *patch), to logits (B, K, *patch)."""

    def __init__(self, network: FuseThenSegment) -> None:
        super().__init__()
        self.network = network

    def forward(self, fused: Tensor) -> Tensor:
        return self.network.segment(fused)


def export_onnx(trained: TrainedModel, output: Path, *, trust: bool = False, overwrite: bool = False) -> list[Path]:
    """Write leader and follower of every fold as ONNX, what a program needs to know to run them, and such a program.

    Args:
        trained: Folder and folds.
        output: Folder; gets fold_X/leader.onnx and model.json; of a model with labels fold_X/follower.onnx and run_onnx.py, too.
        trust: Load what the checkpoints hold, code too.
        overwrite: Replace files that this tool did not write.

    Returns:
        The ONNX files. Both take a window of the plans' patch, any number at a time.

    Raises:
        CheckpointNotFoundError, CheckpointError, ModelPlansError, DatasetJsonError: The model could not be predicted with.
        OptionError: A package is missing; the model is a later stage of a cascade; files of others are in the way.
        UnwritableFolderError: The operating system refused to write.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise OptionError("--onnx", f"needs {' and '.join(missing)}. Install with pip install fuse4seg[onnx].")
    model = load_model(trained.folder, folds=trained.folds, checkpoint=trained.checkpoint, device=torch.device("cpu"),
                       trust=trust)
    if model.description.previous_stage is not None:
        raise OptionError("--onnx", f"{trained.folder} is a later stage of a cascade, whose follower sees another model's "
                                    f"labels, too. Export it without --onnx.")
    if (trained.folder / POSTPROCESSING).is_file():
        log.warning("%s is left out: %s does not apply learnt rules", trained.folder / POSTPROCESSING, PROGRAM)
    places = [f"fold_{fold}" for fold in trained.folds]
    kinds = (LEADER, FOLLOWER) if model.description.segments else (LEADER,)
    beside = (DESCRIPTION, PROGRAM) if model.description.segments else (DESCRIPTION,)
    own = claim_outputs(output, [*beside, *(f"{place}/{kind}" for place in places for kind in kinds)], overwrite=overwrite)
    make_writable_folder(output)
    own.note()
    written = [path for place, network in zip(places, model.with_each_weights(), strict=True)
               for path in _export(network, model, make_writable_folder(output / place))]
    write_json(describe(model, [str(path.relative_to(output)) for path in written]), output / DESCRIPTION)
    if PROGRAM in beside:
        with written_whole(output / PROGRAM) as temporary:
            shutil.copyfile(Path(__file__).with_name(PROGRAM), temporary)
    return written


def describe(model: Model, files: list[str]) -> dict[str, Any]:
    """What a program needs beside the networks: how a case is preprocessed, and what the outputs mean.

    Args:
        model: As loaded.
        files: The networks' files, relative to this description.
    """
    description, configuration = model.description, model.description.configuration
    intensities = description.plans.foreground_intensity_properties_per_channel
    names = channel_names(description.dataset_json)
    schemes = zip(names, configuration.normalization_schemes, configuration.use_mask_for_norm, strict=True)
    channels = [{"name": name, "normalization": scheme, "within_mask": masked, "intensities": intensities[str(index)]}
                for index, (name, scheme, masked) in enumerate(schemes)]
    return {"fuse4seg": __version__, "networks": files, "channels": channels, "spacing": list(configuration.spacing),
            "patch_size": list(model.patch_size), "transpose_forward": list(description.plans.transpose_forward),
            "colours": model.colours, "mirror_axes": list(model.mirror_axes), "labels": description.dataset_json["labels"],
            "regions_class_order": description.dataset_json.get("regions_class_order")}


def _export(network: FuseThenSegment, model: Model, folder: Path) -> Iterator[Path]:
    yield _write(_Leader(network), network.modalities, model, folder / LEADER, names=("channels", "fused"))
    if model.description.segments:
        yield _write(_Follower(network), model.colours, model, folder / FOLLOWER, names=("fused", "logits"))


def _write(network: nn.Module, channels: int, model: Model, path: Path, *, names: tuple[str, str]) -> Path:
    window = torch.rand(TRACED, channels, *model.patch_size)
    # The exporter reports its steps, and warns of packages that it could use.
    exporters = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in exporters]
    for logger in exporters:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(network.eval(), (window,), dynamo=True, input_names=[names[0]], output_names=[names[1]],
                                        dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False)
    finally:
        for logger, level in zip(exporters, levels, strict=True):
            logger.setLevel(level)
    with written_whole(path) as temporary:
        program.save(temporary)
    return path
