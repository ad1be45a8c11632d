"""Each row's own preprocessed dataset: same cases, labels, splits, patch and batch, with other channels or another network."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.normalization.default_normalization_schemes import NoNormalization
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from fuse4seg.colour import WHITE, window_of, windowed
from fuse4seg.comparison.case_grid import CaseGrid, FusedElsewhere
from fuse4seg.comparison.methods import modalities_of, plans_of, recipe_of
from fuse4seg.comparison.rows import Row, fuses_first, what_fuses
from fuse4seg.datasets.dataset_json import MISSING_MODALITIES, channel_names
from fuse4seg.datasets.presence import PRESENT, presence_of
from fuse4seg.errors import OptionError, UnreadableRecordError
from fuse4seg.files import read_json, write_json
from fuse4seg.inference.fusion_rules import fuse_by_rule
from fuse4seg.inference.model import Model
from fuse4seg.inference.sliding_window import fuse_whole_image
from fuse4seg.planning.leaders import COLOURS
from fuse4seg.planning.windows import VOXELS_PER_CHANNEL, sample_tissue
from fuse4seg.plans import OURS
from fuse4seg.progress import progress
from fuse4seg.recipes.reading import to_plain

DONE = "complete.json"
#: Makes the normalised channels (K, Z, Y, X) of a case from its name, its preprocessed channels (C, Z, Y, X), its properties, and
#: a mask (1, Z, Y, X) of what counts for normalisation, None for all.
Make = Callable[[str, np.ndarray, dict[str, Any], np.ndarray | None], np.ndarray]


def prepare_row(row: Row, source: Path, target: Path, *, plans: dict[str, Any], configuration: str,
                leader: Callable[[], Model] | None = None) -> None:
    """Make a preprocessed dataset for one row, or keep the one that is whole.

    Args:
        row: Which.
        source: The dataset's preprocessed folder.
        target: The row's; labels and, where they stay the same, channels are links to the source's.
        plans: Of the dataset, ours.
        configuration: The one to be trained.
        leader: Loads the model that fuses, of a row whose image another training fuses.

    Raises:
        RecipeError: A change of the row fits no recipe.
        UnpairedCasesError, FaultyImageError: A folder of fused images does not fit the dataset.
    """
    recipe = recipe_of(row, plans)
    made_as = json.loads(json.dumps({**row.to_plain(), "method": to_plain(recipe) if row.ours else None}))
    if (target / DONE).is_file():
        if read_json(target / DONE, UnreadableRecordError) != made_as:
            raise OptionError("--rows", f"{target} was made for another row named {row.name}, or by another recipe. Give "
                                        f"this one another name, or another folder.")
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    dataset_json = read_json(source / "dataset.json", FileNotFoundError)
    manager = PlansManager(copy.deepcopy(plans)).get_configuration(configuration)
    for name in ("dataset_fingerprint.json", "splits_final.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    (target / "gt_segmentations").symlink_to((source / "gt_segmentations").absolute(), target_is_directory=True)
    data = source / manager.data_identifier
    if row.source is None:
        (target / manager.data_identifier).symlink_to(data.absolute(), target_is_directory=True)
        write_json(dataset_json, target / "dataset.json")
    else:
        channels = {str(index): row.name for index in range(channels_of(row, plans))}
        of_row = {name: entry for name, entry in dataset_json.items() if name != MISSING_MODALITIES}
        write_json({**of_row, "channel_names": channels}, target / "dataset.json")
        grid = CaseGrid(PlansManager(copy.deepcopy(plans)), configuration, dataset_json)
        make = _of_leader(leader()) if leader is not None else _maker(row.source, grid)
        write_channels(data, target / manager.data_identifier, make, manager, doing=f"preparing {row.name}")
    made = plans_of(row, plans, recipe, dataset=source.name, configuration=configuration)
    if row.source is not None:
        made = _with_channels(made, channels_of(row, plans))
    if row.ours and row.source is not None:
        made = _fusing(made, modalities_of(row, plans), window=shown_in(target / manager.data_identifier))
    write_json(made, target / f"{plans['plans_name']}.json")
    write_json(made_as, target / DONE)


def windows_of(plans: dict[str, Any], configuration: str) -> np.ndarray:
    """What each channel is cut to before it is fused, in preprocessed intensities, shape (N, 2)."""
    architecture = PlansManager(copy.deepcopy(plans)).get_configuration(configuration).network_arch_init_kwargs
    return np.array(architecture["windows"], dtype=np.float64)


def as_grey(channels: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Channels (N, ...) in 0..255, as the fusion network sees them in 0..1."""
    low, high = (windows[:, side].reshape(-1, *[1] * (channels.ndim - 1)) for side in range(2))
    return windowed(channels, low, high) * WHITE


def channels_of(row: Row, plans: dict[str, Any]) -> int:
    """Of what stock nnU-Net gets in place of all modalities."""
    if fuses_first(row):
        return COLOURS[recipe_of(what_fuses(row), plans).leader.fused_image]
    return 3 if row.source == ("rule", "colour") else 1


def write_channels(source: Path, target: Path, make: Make, configuration: ConfigurationManager, *, doing: str) -> None:
    """Preprocessed cases with the channels that ``make`` makes, in the chunks of the source; every case has all of these."""
    target.mkdir()
    dataset = nnUNetDatasetBlosc2(str(source))
    for case in progress(list(dataset.identifiers), doing, unit="case"):
        data, labels, _, properties = dataset.load_case(case)
        # nnU-Net marks what is outside the image, where it cropped to it, with -1.
        inside = labels[:] >= 0 if configuration.use_mask_for_norm[0] else None
        layout = {"chunks": (1, *data.chunks[1:]), "blocks": (1, *data.blocks[1:]), "chunks_seg": labels.chunks,
                  "blocks_seg": labels.blocks}
        channels = make(case, data[:], properties, inside).astype(np.float32)
        properties.pop(PRESENT, None)
        nnUNetDatasetBlosc2.save_case(channels, labels[:], properties, str(target / case), **layout)


def standardised(channels: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
    """Zero mean and unit variance of each channel, as nnU-Net normalises; with a mask inside of it, and 0 outside."""
    voxels = channels.reshape(len(channels), -1) if inside is None else channels[:, inside[0]]
    mean, spread = (of(voxels, axis=1).reshape(-1, 1, 1, 1) for of in (np.mean, np.std))
    scaled = (channels - mean) / np.maximum(spread, 1e-8)
    return scaled if inside is None else np.where(inside, scaled, 0)


def _maker(source: tuple[str, int | str], grid: CaseGrid) -> Make:
    kind, which = source
    windows = np.array(grid.plans.get_configuration(grid.configuration).network_arch_init_kwargs["windows"], dtype=np.float64)
    count = len(channel_names(grid.dataset_json))
    if kind == "modality":
        return lambda _case, channels, _properties, _inside: channels[int(which):int(which) + 1]
    if kind == "rule":
        return lambda _case, channels, properties, inside: standardised(
            fuse_by_rule(list(as_grey(channels[:count], windows)[list(presence_of(properties, count))]), str(which)), inside)
    return _of_folder(FusedElsewhere(Path(which), grid))


def _of_leader(model: Model) -> Make:
    """Images of a trained leader, of 8 bits, as its exported ones."""
    network = next(model.with_each_weights())

    def make(_case: str, channels: np.ndarray, properties: dict[str, Any], inside: np.ndarray | None) -> np.ndarray:
        whole = fuse_whole_image(network, torch.from_numpy(channels), patch_size=model.patch_size, device=model.device,
                                 present=properties.get(PRESENT))
        return standardised(whole.fused.numpy(), inside)

    return make


def _of_folder(images: FusedElsewhere) -> Make:
    def make(case: str, channels: np.ndarray, properties: dict[str, Any], inside: np.ndarray | None) -> np.ndarray:
        return standardised(images.image(case, channels.shape[1:], properties), inside)

    return make


def _with_channels(plans: dict[str, Any], channels: int) -> dict[str, Any]:
    """Plans of a row that has other channels than the dataset, normalised as its first."""
    made = copy.deepcopy(plans)
    for configuration in made["configurations"].values():
        for entry in ("normalization_schemes", "use_mask_for_norm"):
            if entry in configuration:
                configuration[entry] = configuration[entry][:1] * channels
    return made


def shown_in(data: Path) -> tuple[float, float]:
    """The window of preprocessed cases of one channel, as planning finds it in a dataset's modalities."""
    dataset = nnUNetDatasetBlosc2(str(data))
    tissue = []
    for case in dataset.identifiers:
        image, labels, _, _ = dataset.load_case(case)
        (samples,) = sample_tissue(image[:], labels[:], schemes=[NoNormalization],
                                   limit=max(1, VOXELS_PER_CHANNEL // len(dataset.identifiers)))
        tissue.append(samples[False])
    return window_of(np.concatenate(tissue))


def _fusing(plans: dict[str, Any], modalities: list[str], *, window: tuple[float, float]) -> dict[str, Any]:
    """Plans of a row of ours whose one channel is not of the dataset."""
    made = copy.deepcopy(plans)
    made[OURS]["channel_names"] = modalities
    for configuration in made["configurations"].values():
        if "architecture" in configuration:
            configuration["architecture"]["arch_kwargs"]["windows"] = [list(window)]
    return made


def environment_of(target: Path, results: Path) -> dict[str, str]:
    """Environment of a process that trains on the dataset folder ``target`` into ``results``."""
    kept = {name: value for name, value in os.environ.items() if name != "F4S_ROOT"}
    return {**kept, "nnUNet_raw": str(target.parent), "nnUNet_preprocessed": str(target.parent), "nnUNet_results": str(results)}

