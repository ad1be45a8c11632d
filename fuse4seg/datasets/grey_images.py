"""Image files as grey levels, and files of 8 bits a channel through nnU-Net's readers, which know the order of axes."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image as Picture
from PIL import ImageOps

from fuse4seg.colour import WHITE, grey_levels, windowed
from fuse4seg.datasets.colour_files import JPEG, PICTURES, write_copy
from fuse4seg.datasets.images import Geometry, geometry_of, read_image, require_whole, tilt_reader
from fuse4seg.datasets.nifti import NIFTI, give_header_back, header_of, is_nifti, itk_header, readable_by_itk
from fuse4seg.errors import EmptyFolderError, FolderNotFoundError, UnpairedCasesError, UnreadableImageError, UnsuitableImageError
from fuse4seg.files import require_plain_name

logger = logging.getLogger(__name__)

#: Endings of the files that are read.
ENDINGS = (*PICTURES, *NIFTI)
#: Of images that other tools read.
UNREAD = (".tif", ".tiff", ".gif", ".webp", ".mha", ".mhd", ".nrrd", ".gipl", ".dcm", ".hdr", ".img")
IMAGES = (*ENDINGS, *UNREAD)
#: Sub-folder of a folder of fused images with grey copies of those in colour, for metrics are for grey.
GREY = "grey"
#: Chroma of grey.
NEUTRAL = 128


@dataclass(frozen=True)
class GreyRange:
    """Which intensities of images that are not 8-bit are black and white.

    Attributes:
        low: Black.
        high: White, above ``low``.
        clips: Whether intensities beyond are black and white, too; else such an image is refused.
    """

    low: float = 0.0
    high: float = 1.0
    clips: bool = False


#: Of fused images that are no pictures.
UNIT_RANGE = GreyRange()


@dataclass(frozen=True)
class GreyImage:
    """Grey levels of one file.

    Attributes:
        path: The file.
        levels: In 0..255, shape (Y, X) of a picture, (Z, Y, X) of a volume; uint8 or float32. Of a label image its values.
        colour: Red, green and blue of an image in colour, uint8, shape (3, Y, X) or (3, Z, Y, X); None of a grey one.
        geometry: Where the voxels of a volume lie; its shape alone of a picture.
        properties: What nnU-Net's reader says of a volume.
    """

    path: Path
    levels: np.ndarray
    colour: np.ndarray | None = None
    geometry: Geometry = field(default=Geometry((), ()))
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> np.ndarray:
        """In 0..255, those in colour or the grey one, shape (C, *S)."""
        return self.levels[None] if self.colour is None else self.colour


def image_files(folder: Path) -> dict[str, Path]:
    """Images of a folder by their names without endings, which may be in capitals.

    Hidden files and sub-folders are passed over, and images with other endings named in the log.

    Raises:
        FolderNotFoundError: There is no such folder.
        EmptyFolderError: It holds no image.
        UnpairedCasesError: Two files differ in their endings alone.
    """
    if not folder.is_dir():
        raise FolderNotFoundError(folder)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir():
            continue
        ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
        if ending is None:
            if path.name.lower().endswith(UNREAD):
                logger.warning("%s is left out: files %s are read", path, ", ".join(f"*{known}" for known in ENDINGS))
            continue
        name = path.name[:-len(ending)]
        if name in found:
            raise UnpairedCasesError(f"{folder} holds both {found[name].name} and {path.name}. Remove one of them.")
        found[name] = path
    if not found:
        raise EmptyFolderError(folder, " or *".join(ENDINGS), mend="Give a folder of images.")
    return found


def read_grey_image(path: Path, levels: GreyRange | None = UNIT_RANGE) -> GreyImage:
    """Read one image file as grey levels; with ``levels`` None a volume's intensities as they are.

    8-bit files are taken as they are, colour ones as their luma (Y of YCbCr, ITU-R BT.601, full range). Of all others, which only
    NIfTI can be, ``levels`` says what is black and white.

    Raises:
        UnreadableImageError: It is missing, truncated, or no image.
        UnsuitableImageError: It is a picture of more than 8 bits or with transparency, or leaves the range.
    """
    require_plain_name(path)
    return _read_volume(path, levels) if is_nifti(path) else _read_picture(path)


def read_label_image(path: Path) -> GreyImage:
    """Read one file of label values, which its ``levels`` are, int64; of a picture with a palette, its indices.

    Raises:
        UnreadableImageError: It is missing, truncated, or no image.
        UnsuitableImageError: It is in colour, a JPEG, or holds other than whole numbers from 0 on.
    """
    require_plain_name(path)
    if path.name.lower().endswith(JPEG):
        raise UnsuitableImageError(path, "is a JPEG, which keeps no label values. Give label images as PNG.")
    image = _read_picture(path, indices=True) if path.name.lower().endswith(PICTURES) else read_grey_image(path, None)
    if image.colour is not None:
        raise UnsuitableImageError(path, "is in colour, and label values are wanted. Save label values as grey levels.")
    if (image.levels != np.floor(image.levels)).any() or image.levels.min() < 0:
        raise UnsuitableImageError(path, "holds other values than 0, 1, 2, .... Give label images.")
    return replace(image, levels=image.levels.astype(np.int64))


def _read_picture(path: Path, *, indices: bool = False) -> GreyImage:
    """A picture, of one with a palette the colours or its indices."""
    try:
        with Picture.open(path) as opened:
            opened.load()
            if indices and opened.mode == "P":
                return GreyImage(path, np.asarray(opened), geometry=Geometry((opened.height, opened.width), ()))
            # As viewers show it; photographs say how they were held.
            opened = ImageOps.exif_transpose(opened)
            picture = opened.convert("RGBA" if opened.has_transparency_data else "RGB") if opened.mode == "P" else opened.copy()
    # What Pillow raises on damaged files has no common base (OSError, SyntaxError, ValueError, its own).
    except Exception as error:
        raise UnreadableImageError(path, str(error) or type(error).__name__) from error
    if picture.mode in ("LA", "RGBA"):
        if picture.getchannel("A").getextrema() != (255, 255):
            raise UnsuitableImageError(path, "is transparent in places. Save it without an alpha channel.")
        picture = picture.convert(picture.mode[:-1])
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode not in ("L", "RGB"):
        raise UnsuitableImageError(path, f"is no 8-bit grey or RGB image (Pillow calls it {picture.mode}). Convert it to 8 bits.")
    return _picture_levels(path, picture)


def _picture_levels(path: Path, picture: Picture.Image) -> GreyImage:
    shape = Geometry((picture.height, picture.width), ())
    if picture.mode == "L":
        return GreyImage(path, np.asarray(picture), geometry=shape)
    # Not the Y of Pillow's YCbCr, which is rounded down: grey stays what it was.
    luma, colours = np.asarray(picture.convert("L")), np.asarray(picture)
    colourless = (colours == colours[..., :1]).all()
    return GreyImage(path, luma, None if colourless else colours.transpose(2, 0, 1).copy(), shape)


def _read_volume(path: Path, levels: GreyRange | None) -> GreyImage:
    reader = tilt_reader(path, SimpleITKIO)
    if _stored_as(path) == sitk.sitkVectorUInt8:
        return _read_colour_volume(path, reader)
    image = read_image(path, reader)
    voxels = image.voxels[0]
    if _stored_as(path) == sitk.sitkUInt8:
        return GreyImage(path, voxels.astype(np.uint8), geometry=image.geometry, properties=image.properties)
    if levels is None:
        return GreyImage(path, voxels, geometry=image.geometry, properties=image.properties)
    if not levels.clips and (voxels.min() < levels.low or voxels.max() > levels.high):
        raise UnsuitableImageError(path, f"holds intensities from {voxels.min():g} to {voxels.max():g}, "
                                         f"outside {levels.low:g} to {levels.high:g}. Give black and white with --range.")
    scaled = WHITE * windowed(voxels, levels.low, levels.high)
    return GreyImage(path, scaled, geometry=image.geometry, properties=image.properties)


def _read_colour_volume(path: Path, reader: type[BaseReaderWriter]) -> GreyImage:
    """Luma and colours of a NIfTI file of 8-bit red, green and blue."""
    channels, properties = read_channels(path, reader)
    return GreyImage(path, grey_levels(channels), channels, geometry_of(channels.shape[1:], properties), properties)


def _stored_as(path: Path) -> int:
    return read_header(path).GetPixelID()


def read_header(path: Path) -> sitk.ImageFileReader:
    """ITK's reader of a file, with what its header says.

    Raises:
        UnreadableImageError: It is missing, or no image.
    """
    try:
        with readable_by_itk([path], tilted=True) as (file,):
            return itk_header(file)
    except RuntimeError as error:
        raise UnreadableImageError(path, str(error).splitlines()[-1]) from error


def read_channels(path: Path, reader: type[BaseReaderWriter]) -> tuple[np.ndarray, dict[str, Any]]:
    """Read an image of 8 bits a channel: red, green and blue, or grey.

    Args:
        path: The file; NIfTI, or what ITK reads.
        reader: nnU-Net's, for grey images of the same ending.

    Returns:
        uint8, shape (3, Z, Y, X), or (1, Z, Y, X) of a grey one; and the reader's properties.

    Raises:
        UnreadableImageError: It is missing, truncated, or no image.
    """
    try:
        require_whole(path)
        with readable_by_itk([path], tilted=not issubclass(reader, SimpleITKIO)) as (file,):
            image = sitk.ReadImage(str(file))
    except (OSError, RuntimeError) as error:
        raise UnreadableImageError(path, str(error).splitlines()[-1]) from error
    count = image.GetNumberOfComponentsPerPixel()
    channels = [sitk.VectorIndexSelectionCast(image, index) for index in range(count)] if count > 1 else [image]
    with tempfile.TemporaryDirectory() as folder:
        parts = [write_copy(channel, path, Path(folder, str(index))) for index, channel in enumerate(channels)]
        for part in parts if reader is NibabelIO else ():
            give_header_back(part, header_of(path))
        read = [read_image(part, reader) for part in parts]
    properties = {**read[0].properties, **header_of(path)}
    return np.concatenate([part.voxels for part in read]).astype(np.uint8), properties
