"""Registered pairs of infrared and visible images, as MSRS, RoadScene and TNO come, as a raw dataset."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fuse4seg.datasets.colour_files import PICTURES, TIFF
from fuse4seg.datasets.dataset_json import NO_LABELS, NORMALISATION, OF_8_BITS
from fuse4seg.datasets.grey_images import ENDINGS, image_files, read_label_image
from fuse4seg.datasets.raw_writer import describe, new_raw_dataset, place_pictures, write_picture
from fuse4seg.datasets.sources import find_sources, require_equal_names
from fuse4seg.errors import (
    DatasetJsonError,
    FaultyCasesError,
    Fuse4SegError,
    PairsNotFoundError,
    UnsuitableImageError,
    first_line,
)
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

#: How releases call the folders, in small letters: MSRS ir, vi, Segmentation_labels; RoadScene cropinfrared and
#: crop_LR_visible, of one size (crop_HR_visible is larger); the rest is what others made of them, and of TNO.
INFRARED = ("ir", "infrared", "cropinfrared", "thermal", "lwir")
VISIBLE = ("vi", "vis", "visible", "crop_lr_visible", "rgb")
MASKS = ("segmentation_labels", "label", "labels", "mask", "masks")
#: Endings of a raw dataset's folders by the parts of a set.
TRAINING, TEST = "Tr", "Ts"
PARTS = {"": TRAINING, "train": TRAINING, "val": TEST, "test": TEST}
WANTED = ("folder ir (or infrared, cropinfrared) beside vi (or visible, crop_LR_visible), nor train and test with "
          "them, nor a folder per scene with files named IR and VIS")
#: Names of label values from 0 on, a line each, beside the folders.
CLASSES = "classes.txt"
#: Those of MSRS, and of MFNet, from which it is.
MSRS = ("background", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")
#: How TNO's archive names the images of a scene, each of which has a folder: IR_meting003_g, Farm_IR, LWIR_B, IR01;
#: VIS_lake_r, R_Vis, Vis01; near infrared NIR01, G_NIR, Farm_II. APC_2 alone numbers them: 1_fk_ge_03_005 is visible.
SCENE_INFRARED = re.compile(r"(?<![a-z])(lw)?ir(?![a-z])|^2_fk", re.IGNORECASE)
SCENE_VISIBLE = re.compile(r"(?<![a-z])vis(?![a-z])|^1_fk", re.IGNORECASE)
SCENE_NEAR = re.compile(r"(?<![a-z])(nir|ii)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """Pairs that go to one place.

    Attributes:
        ending: Of the raw dataset's folders, Tr or Ts.
        images: For each case its infrared and its visible image.
        masks: For each case its label image; nothing where there are none.
    """

    ending: str
    images: Mapping[str, tuple[Path, ...]]
    masks: Mapping[str, Path] = field(default_factory=dict)


def convert_pairs(source: Path, dataset_id: int, *, name: str = "Pairs", copy: bool = False,
                  processes: int = 1) -> None:
    """Write a raw dataset of infrared and visible: grey PNG files are linked, of images in colour the luma is written.

    Args:
        source: Folders of infrared and visible images and possibly masks, in train and test or not; or TNO's archive.
        dataset_id: Of the new dataset.
        name: Its name.
        copy: Copy files instead of linking them.
        processes: Cases examined at a time.

    Raises:
        PairsNotFoundError: There are no such folders.
        UnpairedCasesError: Names differ between two folders.
        FaultyCasesError: Images cannot be used, or a scene lacks one; one line each.
        DatasetJsonError: The names of the classes cannot be used.
        FaultyDatasetError: Cases cannot be trained on; one line each.
        As :func:`~fuse4seg.datasets.raw_writer.new_raw_dataset`.
    """
    parts = find_pairs(source)
    labelled = any(part.masks for part in parts if part.ending == TRAINING)
    labels = read_classes(source / CLASSES) if labelled else NO_LABELS
    with new_raw_dataset(dataset_id, name) as folder:
        faults, coloured = list[str](), 0
        for part in parts:
            for case in progress(list(part.images), f"converting images{part.ending}", unit="case"):
                try:
                    coloured += _convert(part, case, folder, classes=len(labels) if labelled else 0, copy=copy)
                except Fuse4SegError as error:
                    faults.append(str(error))
        if faults:
            raise FaultyCasesError(faults, nothing_written=True)
        if coloured:
            log.info("%d visible image(s) are in colour: their luma (ITU-R BT.601) is written", coloured)
        training = sum(len(part.images) for part in parts if part.ending == TRAINING)
        describe(folder, channels=("infrared", "visible"), labels=labels, training=training, ending=".png",
                 processes=processes, **{NORMALISATION: {"0": OF_8_BITS, "1": OF_8_BITS}})


def find_pairs(source: Path) -> list[Part]:
    """Pairs in folders of infrared and visible images, in those of train, val and test, or in a folder for each scene.

    Raises:
        PairsNotFoundError: There are none.
        UnpairedCasesError: Names differ between two folders.
        FaultyCasesError: Scenes lack an image, or have several; one line each.
    """
    found = [part for name, ending in PARTS.items() if (part := _part_of(source / name, ending))]
    scenes = {} if found else _find_scenes(source)
    if not (found or scenes):
        raise PairsNotFoundError(source, WANTED)
    return found or [Part(TRAINING, scenes)]


def _part_of(place: Path, ending: str) -> Part | None:
    folders = {path.name.lower(): path for path in place.glob("*") if path.is_dir()}
    infrared, visible, masks = (next((folders[name] for name in names if name in folders), None)
                                for names in (INFRARED, VISIBLE, MASKS))
    if infrared is None or visible is None:
        return None
    images = find_sources([infrared, visible]).images
    # Boxes, as text files, lie in folders of that name, too.
    if masks is None or not any(path.name.lower().endswith(ENDINGS) for path in masks.iterdir()):
        return Part(ending, images)
    labels = image_files(masks)
    require_equal_names(infrared, images, masks, labels)
    return Part(ending, images, labels)


def _find_scenes(source: Path) -> dict[str, tuple[Path, ...]]:
    """Images of every scene, by the names of its folders; what has no infrared image is left out, which is said."""
    folders: dict[Path, list[Path]] = {}
    for path in sorted(source.rglob("*")):
        if path.name.lower().endswith((*PICTURES, *TIFF)) and not path.name.startswith(".") and path.is_file():
            folders.setdefault(path.parent, []).append(path)
    scenes, left_out, faults = dict[str, tuple[Path, ...]](), list[str](), list[str]()
    for folder, files in folders.items():
        infrared = [path for path in files if SCENE_INFRARED.search(path.stem)]
        others = [path for path in files if path not in infrared and not SCENE_NEAR.search(path.stem)]
        # The visible image of one scene, bunker_r beside IR_bunker_g, is not called so.
        visible = [path for path in others if SCENE_VISIBLE.search(path.stem)] or (others if len(others) == 1 else [])
        name = "_".join(folder.relative_to(source).parts) or source.name
        if not infrared:
            left_out.append(name)
        elif len(infrared) == len(visible) == 1:
            scenes[name] = (infrared[0], visible[0])
        else:
            faults.append(f"{folder} holds {len(infrared)} infrared and {len(visible)} visible images, told by IR and "
                          "VIS in their names. Leave one of each.")
    if faults:
        raise FaultyCasesError(faults, nothing_written=True)
    if left_out and scenes:
        log.warning("left out, as no file there is named IR: %s", ", ".join(left_out))
    return scenes


def read_classes(path: Path) -> dict[str, int]:
    """Label values by the names in a text file, a line for each value from 0 on; without one MSRS' own.

    Raises:
        DatasetJsonError: It cannot be read, or gives two values one name.
    """
    try:
        names = path.read_text(encoding="utf-8").split("\n") if path.exists() else list(MSRS)
    except (OSError, ValueError) as error:
        raise DatasetJsonError(path, f"cannot be read as text ({first_line(error)}). Save it in UTF-8.") from error
    named = [name.strip() for name in names if name.strip()]
    labels = {"background": 0, **{name: value for value, name in enumerate(named) if value}}
    if len(labels) < max(2, len(named)):
        raise DatasetJsonError(path, "names no class behind the background, or gives two values one name. Mend it.")
    log.info("labels mean %s%s", labels, "" if path.exists() else f", as in MSRS. {path} would name others")
    return labels


def _convert(part: Part, case: str, folder: Path, *, classes: int, copy: bool) -> bool:
    """Place a case's images and, where there are classes, its mask; whether the visible image is in colour."""
    images = place_pictures(part.images[case], folder / f"images{part.ending}", case, copy=copy)
    if classes and part.masks:
        mask = read_label_image(part.masks[case])
        if mask.levels.shape != images[0].levels.shape:
            shapes = f"has shape {mask.levels.shape} instead of {images[0].levels.shape}"
            raise UnsuitableImageError(mask.path, f"{shapes} in {images[0].path}. Give masks on the grid of the images.")
        if mask.levels.max() >= classes:
            raise UnsuitableImageError(mask.path, f"holds the value {mask.levels.max()}, and there are names for 0 to "
                                                  f"{classes - 1}. Correct it, or name the values in {CLASSES}.")
        write_picture(mask, folder / f"labels{part.ending}" / f"{case}.png")
    return images[1].colour is not None
