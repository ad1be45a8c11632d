"""New raw datasets: whole or not at all, with links where they will do."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags
from PIL import Image as Picture

from fuse4seg.datasets.grey_images import GreyImage, read_grey_image
from fuse4seg.datasets.integrity import find_faults
from fuse4seg.errors import (
    DatasetExistsError,
    DuplicateCaseError,
    FaultyDatasetError,
    OptionError,
    UnsuitableImageError,
    UnwritableFolderError,
)
from fuse4seg.files import make_writable_folder, write_json
from fuse4seg.paths import RAW, data_root


@contextmanager
def new_raw_dataset(dataset_id: int, name: str) -> Iterator[Path]:
    """A folder to fill, which becomes nnUNet_raw/Dataset<id>_<name> when the block succeeds, and vanishes when it fails.

    Raises:
        OptionError: The id or the name is none that nnU-Net takes.
        DatasetExistsError: The id is taken.
        UnwritableFolderError: The operating system refused to write.
    """
    if not 0 < dataset_id < 1000 or not re.fullmatch(r"[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*", name):
        raise OptionError("OUT_ID", f"Dataset{dataset_id}_{name} is no name that nnU-Net takes. Give an id from 1 to 999, and a "
                                    "--name of letters, digits, - and single _.")
    root = make_writable_folder(data_root(RAW))
    taken = sorted(root.glob(f"Dataset{dataset_id:03d}_*"))
    if taken:
        raise DatasetExistsError(taken[0])
    target = root / f"Dataset{dataset_id:03d}_{name}"
    unfinished = root / f".{target.name}.partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        make_writable_folder(unfinished)
        yield unfinished
        unfinished.replace(target)
    except OSError as error:
        raise UnwritableFolderError(root, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def place(source: Path, target: Path, *, copy: bool = False) -> None:
    """Put a file into a dataset: linked by its absolute path where the file system allows it, else (or with ``copy``) copied.

    A plain .nii becomes a .nii.gz where ``target`` says so.

    Raises:
        DuplicateCaseError: The dataset has a file there.
    """
    require_new(source, target)
    target.parent.mkdir(exist_ok=True)
    if target.name.endswith(".gz") and not source.name.endswith(".gz"):
        with source.open("rb") as plain, target.open("wb") as packed, gzip.GzipFile("", "wb", 6, packed, mtime=0) as stream:
            shutil.copyfileobj(plain, stream)
        return
    try:
        if not copy:
            target.symlink_to(source.resolve())
            return
    except OSError:
        pass  # no links here (FAT, some network shares)
    shutil.copyfile(source, target)


def place_pictures(files: Sequence[Path], folder: Path, case: str, *, copy: bool = False) -> list[GreyImage]:
    """Put pictures of one case into a folder of a dataset: grey PNG files placed, of all others the levels or the luma written.

    Returns:
        What they hold.

    Raises:
        UnreadableImageError, UnsuitableImageError: One cannot be read, is no picture, or differs in size from the first.
        DuplicateCaseError: The folder has such a case.
    """
    images = [read_grey_image(path) for path in files]
    for image in images:
        if image.levels.ndim != 2:
            raise UnsuitableImageError(image.path, "is a volume. Give pictures.")
        if image.levels.shape != images[0].levels.shape:
            raise UnsuitableImageError(image.path, f"has shape {image.levels.shape} instead of {images[0].levels.shape} in "
                                                   f"{files[0]}. Resample it to that grid.")
    for number, image in enumerate(images):
        _place_picture(image, folder / f"{case}_{number:04d}.png", copy=copy)
    return images


def _place_picture(image: GreyImage, target: Path, *, copy: bool) -> None:
    with Picture.open(image.path) as stored:
        as_it_is = ((stored.format, stored.mode, stored.has_transparency_data) == ("PNG", "L", False)
                    and ExifTags.Base.Orientation not in stored.getexif())
    if as_it_is:
        place(image.path, target, copy=copy)
    else:
        write_picture(image, target)


def write_picture(image: GreyImage, target: Path) -> None:
    """Write levels of 8 bits into a dataset as a PNG file.

    Raises:
        DuplicateCaseError: The dataset has a file there.
    """
    require_new(image.path, target)
    target.parent.mkdir(exist_ok=True)
    Picture.fromarray(image.levels.astype(np.uint8)).save(target)


def require_new(source: Path, target: Path) -> None:
    """Make sure that nothing lies where a file is put: through a link, the file that it was linked to would be overwritten.

    Raises:
        DuplicateCaseError: Something does.
    """
    if target.exists() or target.is_symlink():
        raise DuplicateCaseError(target.name, target.resolve() if target.is_symlink() else target, source)


def describe(folder: Path, *, channels: Sequence[str], labels: Mapping[str, int], training: int, ending: str, processes: int,
             **further: Any) -> None:
    """Write dataset.json and examine every training case.

    Raises:
        FaultyDatasetError, DatasetJsonError: nnU-Net could not train on it; one line for each faulty case.
    """
    write_json({"channel_names": {str(number): name for number, name in enumerate(channels)}, "labels": dict(labels),
                "numTraining": training, "file_ending": ending, **further}, folder / "dataset.json")
    faults = find_faults(folder, processes=processes) if training else []
    if faults:
        raise FaultyDatasetError(folder.name.removeprefix(".").removesuffix(".partial"), _by_their_sources(faults, folder))


def _by_their_sources(faults: Sequence[str], folder: Path) -> list[str]:
    """Faults that name linked files by what they link to: the links go with the folder."""
    named = list(faults)
    for path in folder.rglob("*"):
        if path.is_symlink():
            named = [fault.replace(str(path), str(path.resolve())) for fault in named]
    return named
