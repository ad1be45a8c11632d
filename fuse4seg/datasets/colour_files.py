"""Files in colour as nnU-Net's readers take them: one channel each, unless the dataset counts red, green and blue as channels."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image as Picture

from fuse4seg.colour import luma
from fuse4seg.datasets.nifti import itk_header
from fuse4seg.errors import UnreadableImageError, UnsuitableImageError
from fuse4seg.files import require_plain_name

logger = logging.getLogger(__name__)

JPEG = (".jpg", ".jpeg")
PICTURES = (".png", ".bmp", *JPEG)
TIFF = (".tif", ".tiff")
#: Pillow's modes of pictures of one channel.
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "F")
#: What alpha is where nothing shines through, by the type of the levels.
OPAQUE = {"uint8": 255, "uint16": 65535}


@contextmanager
def readable_files(images: Sequence[Path], *, labels: bool = False) -> Iterator[list[Path]]:
    """The files as nnU-Net's readers take them, with copies of those in colour.

    Args:
        images: A file for each channel; one that is there three times holds three. Of a file in colour that is there once the
            luma is taken, which is said, or the grey levels where it is grey that was saved in colour.
        labels: They hold label values, of which there is no luma.

    Yields:
        Each file once, those in colour as grey copies or as a copy for each channel.

    Raises:
        UnreadableImageError: A file cannot be read, or its name cannot be given to ITK.
        UnsuitableImageError: A file holds another number of channels, label values in colour, or is transparent.
    """
    with tempfile.TemporaryDirectory() as folder:
        given: list[Path] = []
        for number, (path, count) in enumerate(Counter(images).items()):
            require_plain_name(path)
            stored = _channels(path)
            if stored == count == 1 or (stored == count and path.suffix.lower() in PICTURES):
                given.append(path)
                continue
            if stored == 1:
                raise UnsuitableImageError(path, f"is grey, and {count} channels in colour are wanted of it. Save it in colour.")
            parts = _wanted_of(path, _read_colours(path), count, labels=labels)
            given += [write_copy(part, path, Path(folder, f"{number}-{index}")) for index, part in enumerate(parts)]
        yield given


def _channels(path: Path) -> int:
    """How many a file holds for each pixel; 1 where its header cannot be read, which its reader will say better."""
    if path.suffix.lower() in PICTURES:
        try:
            with Picture.open(path) as picture:
                return 1 if picture.mode in GREY_MODES else len(picture.getbands()) if picture.mode != "P" else 3
        # What Pillow raises on damaged files has no common base.
        except Exception:
            logger.debug("Pillow cannot read the header of %s", path, exc_info=True)
            return 1
    try:
        return itk_header(path).GetNumberOfComponents()
    except RuntimeError:
        logger.debug("ITK cannot read the header of %s", path)
        return 1


def _read_colours(path: Path) -> list[sitk.Image]:
    """Channels of a file in colour, alpha among them, each where the file lies."""
    try:
        if path.suffix.lower() in PICTURES:
            with Picture.open(path) as picture:
                if picture.mode == "P":
                    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
                return [sitk.GetImageFromArray(np.asarray(band)) for band in picture.split()]
        image = sitk.ReadImage(str(path))
    # Pillow and ITK have no common base for what they raise on damaged files.
    except Exception as error:
        raise UnreadableImageError(path, str(error).splitlines()[-1] if str(error) else type(error).__name__) from error
    return [sitk.VectorIndexSelectionCast(image, index) for index in range(image.GetNumberOfComponentsPerPixel())]


def _wanted_of(path: Path, colours: list[sitk.Image], count: int, *, labels: bool) -> list[sitk.Image]:
    """Red, green and blue where three are wanted, grey where one is."""
    if len(colours) in (2, 4) and len(colours) != count:
        alpha = sitk.GetArrayFromImage(colours.pop())
        if (alpha != OPAQUE.get(str(alpha.dtype), 1)).any():
            raise UnsuitableImageError(path, "is transparent in places. Save it without an alpha channel.")
    if len(colours) == count:
        return colours
    if count != 1 or len(colours) != 3:
        raise UnsuitableImageError(path, f"holds {len(colours)} channels, and {count} wanted. Save each as a file of its own.")
    levels = np.stack([sitk.GetArrayFromImage(channel) for channel in colours])
    if (levels == levels[:1]).all():
        return colours[:1]
    if labels:
        raise UnsuitableImageError(path, "is in colour, and label values are wanted. Save label values as grey levels.")
    logger.debug("%s is in colour, and its luma is taken", path)
    _say_luma(path.parent)
    grey = sitk.GetImageFromArray(_luma(levels))
    grey.CopyInformation(colours[0])
    return [grey]


@cache
def _say_luma(folder: Path) -> None:
    """Once of each folder, as the images of one are mostly alike."""
    logger.warning("%s: images in colour stand for one channel, and their luma is taken; --verbose names each", folder)


def _luma(levels: np.ndarray) -> np.ndarray:
    """Y of levels (3, *S), in their own type; of 8 bits to the level what Pillow makes of pictures."""
    if levels.dtype == np.uint8:
        flat = Picture.fromarray(np.ascontiguousarray(levels.reshape(3, 1, -1).transpose(1, 2, 0)))
        return np.asarray(flat.convert("L")).reshape(levels.shape[1:])
    grey = luma(levels[None].astype(np.float64))[0, 0]
    return (np.rint(grey) if levels.dtype.kind in "iu" else grey).astype(levels.dtype)


def write_copy(image: sitk.Image, path: Path, place: Path) -> Path:
    """Write what was read of a file, named like the channel of a case: by that nnU-Net's reader of TIFF finds the spacing beside.

    Args:
        image: All of the file, or one of its channels.
        path: The file.
        place: Of the copy, without "_0000" and ending.

    Returns:
        The copy, PNG of pictures, else in the file's format.
    """
    name = path.name.lower()
    ending = ".png" if name.endswith(PICTURES) else ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()
    copy = place.with_name(f"{place.name}_0000{ending}")
    sitk.WriteImage(image, str(copy))
    beside = (path.with_suffix(".json"), path.with_name(f"{path.stem[:-5]}.json")) if ending in TIFF else ()
    if spacing := next((file for file in beside if file.is_file()), None):
        for name in (place.name, copy.stem):
            shutil.copyfile(spacing, place.with_name(f"{name}.json"))
    return copy
