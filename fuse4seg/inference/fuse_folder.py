"""Folders of source images in, a folder of fused images out, by a rule or by a trained model."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image as Picture

from fuse4seg.datasets.dataset_json import channel_names
from fuse4seg.datasets.fused_record import RECORD, FusedRecord
from fuse4seg.datasets.grey_images import ENDINGS, GREY, JPEG, NEUTRAL, UNIT_RANGE, GreyImage, GreyRange, read_grey_image
from fuse4seg.datasets.grey_ranges import is_narrow, warn_of_narrow
from fuse4seg.datasets.images import geometry_difference
from fuse4seg.datasets.raw import Case
from fuse4seg.datasets.sources import Sources
from fuse4seg.errors import OptionError, UnsuitableImageError, UnsupportedFormatError, UnwritableFolderError
from fuse4seg.farm.farm import Farm, Job
from fuse4seg.files import checksum, make_writable_folder, written_whole
from fuse4seg.inference.fusion_rules import fuse_by_rule
from fuse4seg.inference.image_files import write_fused
from fuse4seg.inference.model import Model
from fuse4seg.inference.predict_case import fuse_case
from fuse4seg.inference.preprocess_case import preprocessed_images
from fuse4seg.inference.workers import Workers
from fuse4seg.own_outputs import OwnOutputs, claim_outputs, require_apart
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

#: Of fused pictures and volumes.
OUTPUT_ENDINGS = (".png", ".nii.gz")
#: Makes an image in 0..255, shape (C, *S), of a case's sources.
Fuse = Callable[[str, Sequence[GreyImage]], np.ndarray]


def fuse_folder(sources: Sources, output: Path, fuse: Fuse, *, method: Mapping[str, Any],
                levels: GreyRange | Sequence[GreyRange] | None = UNIT_RANGE, overwrite: bool = False, farm: Farm | None = None,
                again: Callable[[], Fuse] | None = None) -> list[str]:
    """Fuse every case, write it (see :func:`write_beside`), and record what it was made from.

    Args:
        sources: From ``find_sources``.
        output: Is created with the first fused image.
        fuse: :func:`by_rule` or :func:`by_model`.
        method: What the record shall say of ``fuse``.
        levels: Black and white of images that are not 8-bit, of all or of each source; None to take any intensities, for a model.
        overwrite: Also replace files in ``output`` that this tool did not write.
        farm: Workers that fuse, in place of this process.
        again: Gives ``fuse`` in each of them; it and what it gives are of modules, or ``partial`` of such.

    Returns:
        One line for each case that could not be fused; the others were.

    Raises:
        UnwritableFolderError: The operating system refused to write.
        OptionError: ``output`` holds the sources, belongs to a raw dataset, or holds files of these names that this tool did
            not write.
    """
    if any(output.resolve() == path.parent.resolve() for files in sources.images.values() for path in files):
        raise OptionError("-o", f"{output} holds sources, which fused images would overwrite. Choose another folder.")
    require_apart(output, (), overwrite=overwrite)
    written = [f"{place}{name}{ending}" for name in sources.images for place in ("", f"{GREY}/") for ending in OUTPUT_ENDINGS]
    own = claim_outputs(output, [RECORD, *written], overwrite=overwrite)
    of_each = levels if isinstance(levels, Sequence) else [levels] * len(sources.names)
    work = partial(_fuse_case, of_each=of_each, output=output)
    begin, faults, made = partial(_begin, output, own), [], {}
    if farm is None:
        here = partial(work, fuse, begin=cache(begin))
        done = Workers("fusing", 0, flag="").map(here, sources.images.items(), name=itemgetter(0))
    else:
        begin()
        done = farm.outcomes(Job(again, work, "fusing", on_gpu=farm.device == "cuda"), sources.images.items(), name=itemgetter(0))
    for outcome in progress(done, "fusing", unit="case", total=len(sources.images)):
        if isinstance(outcome.failure, UnwritableFolderError):
            raise outcome.failure
        if outcome.failure is not None:
            faults.append(str(outcome.failure))
        else:
            made[outcome.case] = outcome.result
    in_order = [name for name in sources.images if name in made]
    warn_of_narrow([path for name in in_order for path in made[name].narrow])
    if made:
        FusedRecord(method, sources.names, {name: made[name].checksums for name in in_order}).write(output)
    return faults


class _Made(NamedTuple):
    """Of a fused case: checksums of its sources, and those of these that use little of the range they were given."""

    checksums: tuple[str, ...]
    narrow: list[Path]


def _begin(output: Path, own: OwnOutputs) -> None:
    """Make the folder, of whose images nothing is known until the run is through."""
    make_writable_folder(output)
    own.note()
    (output / RECORD).unlink(missing_ok=True)


def _fuse_case(fuse: Fuse, named: tuple[str, Sequence[Path]], *, of_each: Sequence[GreyRange | None], output: Path,
               begin: Callable[[], None] | None = None) -> _Made:
    """Fuse and write a case, given with its name; ``begin`` makes the folder once there is something to write."""
    name, files = named
    images = [read_grey_image(path, shown) for path, shown in zip(files, of_each, strict=True)]
    _require_one_place(images)
    narrow = [image.path for image, shown in zip(images, of_each, strict=True) if shown is not None and is_narrow(image)]
    fused = fuse(name, images)
    if begin is not None:
        begin()
    for ending in OUTPUT_ENDINGS:
        (output / GREY / f"{name}{ending}").unlink(missing_ok=True)
    write_beside(fused, images, output, name)
    return _Made(tuple(map(checksum, files)), narrow)


def by_rule(rule: str) -> Fuse:
    """Fuse grey levels by one of RULES."""
    return lambda _name, images: fuse_by_rule([image.levels for image in images], rule)


def by_model_again(load: Callable[[], Model], modalities: Sequence[str]) -> Fuse:
    """:func:`by_model` in another process, where the model is yet to be loaded."""
    return by_model(load(), modalities)


def by_model(model: Model, modalities: Sequence[str]) -> Fuse:
    """Fuse files as f4s_predict does, with the first set of weights; colour ones by their luma.

    Args:
        model: From ``load_model``.
        modalities: Names of the sources, in their order.

    Raises:
        OptionError: The model fuses another number of modalities.
    """
    reader, names = model.description.reader, channel_names(model.description.dataset_json)
    if len(modalities) != len(names):
        raise OptionError("-i", f"the model fuses {', '.join(names)}, but there are {len(modalities)} modalities.")
    log.info("taken as %s: %s", ", ".join(names), ", ".join(modalities))

    def fuse(name: str, images: Sequence[GreyImage]) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            case = Case(name, tuple(_plain_file(image, Path(folder) / str(index), reader.supported_file_endings)
                                    for index, image in enumerate(images)))
            channels, properties = preprocessed_images(case, model.description)
        fused = fuse_case(model, torch.from_numpy(channels), properties)
        return fused.reshape(len(fused), *images[0].levels.shape)

    return fuse


def write_beside(fused: np.ndarray, sources: Sequence[GreyImage], folder: Path, name: str) -> list[Path]:
    """Write a fused image beside others, in the geometry of its first source.

    Args:
        fused: In 0..255, shape (C, *S of a source), C 1, or 3 in colour.
        sources: What it was fused from.
        folder: Exists.
        name: Of the case.

    Returns:
        The files, 8 bits a channel: NIfTI of volumes, else PNG. A grey picture of sources in colour gets their colour back. The
        luma of those in colour is in ``grey``.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    levels = np.rint(fused).astype(np.uint8)
    if levels.ndim == 4:
        return write_fused(levels, folder, name, ".nii.gz", sources[0].properties)
    colours = [source.colour for source in sources if source.colour is not None]
    if len(levels) == 1 and colours:
        _write_picture(Picture.fromarray(levels[0]), make_writable_folder(folder / GREY) / f"{name}.png")
        return [_write_picture(_coloured(levels[0], colours), folder / f"{name}.png"), folder / GREY / f"{name}.png"]
    return write_fused(levels[:, None], folder, name, ".png", {})


def blended_chroma(colours: Sequence[np.ndarray]) -> np.ndarray:
    """Cb or Cr of several images, each weighted by how far from grey it is; that of one image as it is.

    Args:
        colours: uint8, shape (Y, X, 2) each.

    Source: Prabhakar et al., DeepFuse, 2017, Eq. 5.
    """
    offsets = np.stack(colours).astype(np.float64) - NEUTRAL
    weights = np.abs(offsets)
    total = weights.sum(axis=0)
    mean = np.divide((offsets * weights).sum(axis=0), total, where=total > 0, out=np.zeros_like(total))
    return np.rint(mean + NEUTRAL).astype(np.uint8)


def _coloured(grey: np.ndarray, colours: Sequence[np.ndarray]) -> Picture.Image:
    """A grey picture (Y, X) with the chroma of sources (3, Y, X)."""
    chroma = blended_chroma([np.asarray(Picture.fromarray(colour.transpose(1, 2, 0).copy()).convert("YCbCr"))[..., 1:]
                             for colour in colours])
    parts = [Picture.fromarray(np.ascontiguousarray(part)) for part in (grey, chroma[..., 0], chroma[..., 1])]
    return Picture.merge("YCbCr", parts).convert("RGB")


def _write_picture(picture: Picture.Image, path: Path) -> Path:
    with written_whole(path) as temporary:
        picture.save(temporary)
    return path


def _plain_file(image: GreyImage, place: Path, endings: Sequence[str]) -> Path:
    """The file itself, or its luma where it may be in colour."""
    ending = next(ending for ending in ENDINGS if image.path.name.lower().endswith(ending))
    if not {".png" if ending in JPEG else ending} & {*endings}:
        raise UnsupportedFormatError("".join(image.path.suffixes[-2:]), reads=endings)
    if image.levels.ndim == 3:
        return image.path
    place.mkdir()
    Picture.fromarray(image.levels).save(place / f"{image.path.stem}.png")
    return place / f"{image.path.stem}.png"


def _require_one_place(images: Sequence[GreyImage]) -> None:
    for image in images[1:]:
        difference = geometry_difference(image.geometry, images[0].geometry)
        if difference:
            raise UnsuitableImageError(image.path, f"has {difference} in {images[0].path}. Resample it to that grid.")
