"""Single images as nnU-Net reads them, with their geometry, so that faults can be told file by file."""

from __future__ import annotations

import gzip
import io
import logging
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.reader_writer_registry import (
    determine_reader_writer_from_dataset_json,
    determine_reader_writer_from_file_ending,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from fuse4seg.datasets.colour_files import readable_files
from fuse4seg.datasets.nifti import claimed_voxels, header_of, is_nifti, is_tilted, itk_header, readable_by_itk
from fuse4seg.errors import Fuse4SegError, UnreadableImageError, UnsuitableImageError, UnsupportedFormatError
from fuse4seg.files import has_plain_name

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
#: What nibabel, stricter than ITK, ends in; its own errors have no common base.
NIBABEL_REFUSES = (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError,
                   nibabel.spatialimages.ImageDataError, nibabel.wrapstruct.WrapStructError, OSError, EOFError, ValueError,
                   TypeError, LookupError, ArithmeticError, MemoryError, zlib.error)
# Spacing as strict as nnU-Net's own comparison; origin (mm) and direction leave room for the rounding of NIfTI headers.
TOLERANCES = {"shape": 0.0, "spacing": 1e-8, "origin": 1e-3, "direction": 1e-4}


@dataclass(frozen=True)
class Geometry:
    """Where the voxels lie.

    Formats without a position in space (PNG, BMP, TIFF) have no origin and no direction.

    Attributes:
        shape: Voxels along the axes of the array.
        spacing: Millimetres between voxels, in the order of ``shape``.
        origin: Position of the first voxel in millimetres.
        direction: Direction cosines, row by row.
    """

    shape: tuple[float, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...] = ()
    direction: tuple[float, ...] = ()


@dataclass(frozen=True)
class Image:
    """One file's voxels, shape (C, Z, Y, X) in float32, its geometry, and what nnU-Net's reader says."""

    path: Path
    voxels: np.ndarray
    geometry: Geometry
    properties: dict[str, Any] = field(default_factory=dict)


def find_reader(dataset_json: dict[str, Any], examples: Iterable[Path]) -> type[BaseReaderWriter]:
    """nnU-Net's reader for a dataset: the first that reads the first readable example.

    Args:
        dataset_json: Content of dataset.json; its file_ending (or overwrite_image_reader_writer) decides.
        examples: Image files of the dataset, some of which may be faulty.

    Raises:
        UnsupportedFormatError: nnU-Net reads no files of that ending.
    """
    ending = dataset_json["file_ending"]
    try:
        default = determine_reader_writer_from_file_ending(ending, verbose=False)
    except RuntimeError as error:
        raise UnsupportedFormatError(ending) from error
    for example in filter(has_plain_name, examples):
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                reader = determine_reader_writer_from_dataset_json(dataset_json, str(example), verbose=False)
            # By overwrite_image_reader_writer nnU-Net gives whatever has that name.
            return reader if isinstance(reader, type) and issubclass(reader, BaseReaderWriter) else default
        except RuntimeError:
            logger.debug("%s tells no reader", example)
    return default


def read_image(path: Path, reader: type[BaseReaderWriter], *, channels: int = 1, labels: bool = False) -> Image:
    """Read one file.

    Args:
        path: The file.
        reader: From :func:`find_reader`.
        channels: That it holds: one, or three of the dataset's channels in colour.
        labels: It holds label values.

    Raises:
        UnreadableImageError: It is missing, truncated, or no image.
        UnsuitableImageError: It holds another number of channels, label values in colour, NaN or infinite values, or more than
            three dimensions; or its spacing is not above 0.
    """
    try:
        require_whole(path)
        with redirect_stdout(io.StringIO()), given_to(reader, [path] * channels, labels=labels) as files:
            # Not the same for TIFF: beside a label its spacing lies under another name.
            voxels, properties = reader().read_seg(str(files[0])) if labels else reader().read_images(list(map(str, files)))
        image = Image(path, voxels, geometry_of(voxels.shape[1:], properties), {**properties, **header_of(path)})
    except Fuse4SegError:
        raise
    # ITK, nibabel, tifffile and imageio have no common base for what they raise on a damaged file.
    except Exception as error:
        raise UnreadableImageError(path, _one_line(error)) from error
    if problem := _problem(image, channels):
        raise UnsuitableImageError(path, problem)
    return image


def _problem(image: Image, channels: int) -> str | None:
    """What keeps an image that could be read from being used for anything."""
    spacing = image.geometry.spacing
    if not all(0 < step < math.inf for step in spacing):
        return f"has spacing {_rounded(spacing)} mm. Correct it, in its header or in the file beside it."
    if len(image.geometry.origin) > 3:
        return (f"has {len(image.geometry.origin)} dimensions. Split it into one 3D file per channel, as f4s_convert_dataset msd "
                "does with a Decathlon task.")
    if len(image.voxels) != channels:  # nnU-Net takes a TIFF of three or four pages for one picture in colour
        return f"was read as {len(image.voxels)} channels, and {channels} wanted. Save each as a file of its own, as .nii.gz."
    return None if _is_finite(image) else "holds NaN or infinite intensities. Replace them by numbers."


def tilt_reader(path: Path, reader: type[BaseReaderWriter]) -> type[BaseReaderWriter]:
    """The reader, or nibabel's of a NIfTI file with a tilt that ITK refuses; where no straight axes are needed."""
    return NibabelIO if issubclass(reader, SimpleITKIO) and is_tilted(path) else reader


@contextmanager
def given_to(reader: type[BaseReaderWriter], images: Sequence[Path], *, labels: bool = False) -> Iterator[list[Path]]:
    """Files as a reader of nnU-Net's takes them: in grey, and placed so that ITK accepts it where that is the reader.

    By :func:`~fuse4seg.datasets.colour_files.readable_files` and :func:`~fuse4seg.datasets.nifti.readable_by_itk`.
    """
    with (readable_files(images, labels=labels) as grey,
          readable_by_itk(grey) if issubclass(reader, SimpleITKIO) else nullcontext(grey) as files):
        yield list(files)


def _is_finite(image: Image) -> bool:
    """Whether no intensity is NaN or infinite, in the voxels or in a NIfTI file, of which ITK reads both as 0."""
    if is_nifti(image.path) and not is_stored_finite(image.path):
        return False
    return bool(np.isfinite(image.voxels).all())


def is_stored_finite(path: Path) -> bool:
    """Whether a NIfTI file holds no NaN and nothing infinite, which ITK reads as 0."""
    try:
        stored = nibabel.load(path)
        return stored.get_data_dtype().kind != "f" or bool(np.isfinite(np.asanyarray(stored.dataobj)).all())
    except NIBABEL_REFUSES:
        logger.debug("nibabel cannot read %s, so what ITK read of it counts", path)
        return True


def geometry_of(shape: tuple[int, ...], properties: dict[str, Any]) -> Geometry:
    """Geometry of voxels of this shape (Z, Y, X), by what nnU-Net's reader says of them."""
    spacing = tuple(float(step) for step in properties["spacing"])
    if "sitk_stuff" in properties:
        placed = properties["sitk_stuff"]
        return Geometry(shape, spacing, tuple(placed.get("origin", ())), tuple(placed.get("direction", ())))
    if "nibabel_stuff" in properties:
        affine = np.asarray(properties["nibabel_stuff"]["original_affine"])
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        return Geometry(shape, spacing, tuple(affine[:3, 3].tolist()), tuple(axes.ravel().tolist()))
    return Geometry(shape, spacing)


def geometry_difference(geometry: Geometry, expected: Geometry) -> str | None:
    """What differs between two geometries, in words; None if nothing does.

    Example:
        ``"spacing (1.0, 1.0, 2.0) instead of (1.0, 1.0, 1.0)"``
    """
    for entry in fields(Geometry):
        found, wanted = getattr(geometry, entry.name), getattr(expected, entry.name)
        if len(found) != len(wanted) or not np.allclose(found, wanted, rtol=1e-5, atol=TOLERANCES[entry.name]):
            return f"{entry.name} {_rounded(found)} instead of {_rounded(wanted)}"
    return None


def require_whole(path: Path) -> None:
    """Make sure that a packed file is not cut off, and that a NIfTI file holds what its header claims.

    Raises:
        OSError: It is missing, or not whole.
    """
    _require_room_for_voxels(path, _unpacked_size(path))


def _require_room_for_voxels(path: Path, size: int) -> None:
    """Make sure that a NIfTI file of so many bytes holds a byte for each voxel of its header.

    ITK takes memory for all that a header claims before it looks at how much there is.

    Raises:
        OSError: It does not.
    """
    if not is_nifti(path):
        return
    try:
        header = itk_header(path)
        claimed = math.prod(header.GetSize()) * header.GetNumberOfComponents()
    except RuntimeError:
        logger.debug("ITK cannot read the header of %s; nibabel may", path)
        claimed = claimed_voxels(path)
    if claimed > size:
        raise OSError(f"its header claims {claimed} voxels, and it holds {size} bytes")


def _unpacked_size(path: Path) -> int:
    """Bytes of a file, unpacked wholly if it is a gzip file: ITK takes the missing end of a truncated one for zeros."""
    if path.suffix.lower() != ".gz":
        return path.stat().st_size
    size = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(CHUNK):
                size += len(chunk)
        return size
    except (EOFError, zlib.error) as error:
        raise OSError("the file is truncated or damaged") from error


def _rounded(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number:.6g}" for number in numbers) + ")"


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
