"""One case with all rows side by side: sources, labels, and what each row fused and segmented."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.colour import WHITE
from fuse4seg.comparison.case_grid import CaseGrid
from fuse4seg.comparison.fused_images import fused_by
from fuse4seg.comparison.prepared_data import as_grey, windows_of
from fuse4seg.comparison.rows import Row, fuses_first, what_fuses
from fuse4seg.comparison.scores import validation_cases
from fuse4seg.comparison.trainings import place_of, purpose_of_fusing
from fuse4seg.datasets.dataset_json import channel_names, foreground_classes, read_dataset_json
from fuse4seg.datasets.grey_images import grey_levels
from fuse4seg.datasets.presence import PRESENT
from fuse4seg.errors import Fuse4SegError
from fuse4seg.files import written_whole
from fuse4seg.inference.export_case import FUSED
from fuse4seg.inference.panel import Tile, coloured, telling_slice
from fuse4seg.inference.validate_fold import VALIDATION

log = logging.getLogger(__name__)

#: In the folder of a comparison.
PICTURE = "case.png"
#: Pixels: of a tile at least, of a line of tiles at most, above a tile for its title, and between tiles.
TILE, LINE, TITLE, GAP = 200, 2000, 18, 6
#: Tiles in a line: an even number, so that what a row fused and segmented stay side by side.
MOST = 8
DPI, POINTS = 100, 9
#: Width of a letter over the height of its font.
LETTER = 0.6


class Shown(NamedTuple):
    """The case that is shown, and one slice of it: index, sources (N, Y, X) in 0..255 and labels (Y, X), None without labels."""

    case: str
    index: int
    sources: np.ndarray
    labels: np.ndarray | None


class Placed(NamedTuple):
    """A tile, and where its upper left corner is, in pixels from the left and from the top."""

    tile: Tile
    left: int
    top: int


def write_picture(path: Path, results: Sequence[dict[str, Any]], source: Path, *, plans: dict[str, Any],
                  configuration: str) -> dict[str, Any] | None:
    """Write a PNG of the slice with most foreground, or the brightest without labels, from what the trainings left.

    The case is the first of those that have most classes, of the validation cases of the first fold, of those that have every
    modality if there are any.

    Args:
        path: Target, in the comparison's folder.
        results: Of :func:`~fuse4seg.comparison.compare.compare`; of each row the first seed is shown.
        source: The dataset's preprocessed folder.
        plans: Of the dataset.
        configuration: The one that was trained.

    Returns:
        ``case``, ``fold`` and ``slice``; None where there is nothing to show.
    """
    if not results:
        return None
    fold = min(result["fold"] for result in results)
    dataset_json, manager = read_dataset_json(source), PlansManager(copy.deepcopy(plans))
    dataset = nnUNetDatasetBlosc2(str(source / manager.get_configuration(configuration).data_identifier))
    cases = validation_cases(source, fold, plans=plans, configuration=configuration)
    complete = [case for case in cases if PRESENT not in dataset.load_case(case)[3]]
    case = telling_case(dataset, complete or cases)
    data, labels, _, properties = dataset.load_case(case)
    windows = windows_of(plans, configuration)
    sources = as_grey(data[:len(windows)], windows)
    truth = np.asarray(labels[0]) if foreground_classes(dataset_json) else None
    index = int(sources.sum(axis=(0, 2, 3)).argmax()) if truth is None else telling_slice(truth)
    shown = Shown(case, index, sources[:, index], None if truth is None else truth[index])
    grid = CaseGrid(manager, configuration, dataset_json)
    read_labels = partial(grid.labels, case=case, shape=sources.shape[1:], properties=properties)
    names = channel_names(dataset_json)
    groups = [[Tile(name, image / WHITE)] for name, image in zip(names, shown.sources, strict=True)]
    if shown.labels is not None:
        groups.append([Tile("reference", shown.sources[0] / WHITE, labels=shown.labels)])
    groups.append([])  # the rows begin a line of their own
    for result in first_seeds(results, fold):
        row, validation = Row.from_plain(result), _validation(path.parent, result, source.name)
        exported = _validation(path.parent, result, source.name, alone=True) if fuses_first(row) else validation
        fuse = fused_by(row, exported / FUSED if row.ours or fuses_first(row) else None, source, plans=plans,
                        configuration=configuration)
        fused = None if fuse is None else _fused(fuse, case, sources, index, row.name)
        file = validation / f"{case}{dataset_json['file_ending']}"
        segmented = read_labels(file)[index] if "segmentation" in result and file.is_file() else None
        groups.append(tiles_of(row, shown, fused, segmented))
    _write(path, arranged(groups))
    return {"case": case, "fold": fold, "slice": index}


def telling_case(dataset: nnUNetDatasetBlosc2, cases: Iterable[str]) -> str:
    """The first, by its name, of the cases that have most classes."""
    def classes(case: str) -> int:
        return sum(len(places) > 0 for places in dataset.load_case(case)[3].get("class_locations", {}).values())

    return max(sorted(cases), key=classes)


def first_seeds(results: Sequence[dict[str, Any]], fold: int) -> list[dict[str, Any]]:
    """Of each row its training in a fold with the lowest seed."""
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        if result["fold"] == fold and result["seed"] <= found.get(result["name"], result)["seed"]:
            found[result["name"]] = result
    return list(found.values())


def tiles_of(row: Row, shown: Shown, fused: np.ndarray | None, segmented: np.ndarray | None) -> list[Tile]:
    """What a row fused, and its segmentation over that, else over the modality that it is of, else over the first.

    Args:
        row: Which.
        shown: The slice.
        fused: In 0..255, shape (C, Y, X), C 1 or 3; None where it does not fuse.
        segmented: Labels (Y, X); None where it does not segment.
    """
    tiles = []
    beneath = shown.sources[int(row.source[1]) if row.source and row.source[0] == "modality" else 0]
    if fused is not None:
        tiles.append(Tile(row.name, (np.moveaxis(fused, 0, -1) if len(fused) > 1 else fused[0]) / WHITE))
        beneath = grey_levels(fused)
    if segmented is not None:
        tiles.append(Tile("segmented" if tiles else row.name, beneath / WHITE, labels=segmented))
    return tiles


def arranged(groups: Sequence[Sequence[Tile]]) -> list[Placed]:
    """Tiles in lines; those of a group stay in one line, and an empty group begins a new one."""
    height, width = next(tile for group in groups for tile in group).image.shape[:2]
    step_down, step_right = height * scale_of(width) + TITLE + GAP, width * scale_of(width) + GAP
    columns = min(MOST, max(2, LINE // step_right // 2 * 2))
    placed, line, column = [], 0, 0
    for group in groups:
        if column and (not group or column + len(group) > columns):
            line, column = line + 1, 0
        for tile in group:
            placed.append(Placed(tile, GAP + column * step_right, TITLE + line * step_down))
            column += 1
    return placed


def scale_of(width: int) -> int:
    """Pixels per voxel."""
    return max(1, -(-TILE // width))


def pixels_of(tile: Tile) -> np.ndarray:
    """A tile as it is drawn, uint8, shape (height, width, 3), several pixels per voxel."""
    image = np.clip(tile.image, 0, 1)
    colours = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)
    if tile.labels is not None:
        over = coloured(tile.labels)
        colours = colours + over[..., 3:] * (over[..., :3] - colours)
    scale = scale_of(image.shape[1])
    return np.rint(colours * WHITE).astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)


def _fused(fuse: Any, case: str, sources: np.ndarray, index: int, name: str) -> np.ndarray | None:
    """The slice of a fused image, where it can still be had: others' images may have gone."""
    try:
        return np.clip(fuse(case, sources)[:, index], 0, WHITE)
    except Fuse4SegError as error:
        log.warning("%s is left out of %s: %s", name, PICTURE, error)
        return None


def _validation(output: Path, result: dict[str, Any], dataset: str, *, alone: bool = False) -> Path:
    """Folder of what a training, or that of what fuses its image, made of the validation cases, whatever its model is called."""
    name, fold, seed = result["name"], result["fold"], result["seed"]
    place = place_of(output, name, fold, seed)
    if alone:
        row = Row.from_plain(result)
        place = place_of(output, what_fuses(row).name, fold, seed, purpose=purpose_of_fusing(row))
    return next((place / dataset).glob(f"*/fold_{fold}/{VALIDATION}"), place / VALIDATION)


def _write(path: Path, placed: Sequence[Placed]) -> None:
    from matplotlib.figure import Figure  # takes its time to be imported

    drawn = [(pixels_of(tile), left, top) for tile, left, top in placed]
    canvas = np.zeros((max(top + len(pixels) for pixels, _, top in drawn) + GAP,
                       max(left + pixels.shape[1] for pixels, left, _ in drawn) + GAP, 3), np.uint8)
    for pixels, left, top in drawn:
        canvas[top:top + len(pixels), left:left + pixels.shape[1]] = pixels
    height, width = canvas.shape[:2]
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="black")
    figure.figimage(canvas, origin="upper")
    for (tile, left, top), (pixels, *_) in zip(placed, drawn, strict=True):
        size = min(POINTS, pixels.shape[1] / (LETTER * len(tile.title)) * 72 / DPI)
        figure.text((left + pixels.shape[1] / 2) / width, 1 - (top - GAP / 2) / height, tile.title, color="white",
                    fontsize=size, ha="center", va="bottom")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")
