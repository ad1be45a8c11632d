"""Files of what prediction makes: images in the input's geometry, and fused images as the follower read them, to the bit."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from PIL import Image as Picture

from fuse4seg.colour import grey_levels
from fuse4seg.datasets.colour_files import TIFF
from fuse4seg.datasets.grey_images import GREY, read_channels, read_header
from fuse4seg.datasets.images import read_image
from fuse4seg.datasets.nifti import NIFTI, give_header_back, header_at
from fuse4seg.errors import UnreadableImageError, UnsuitableImageError, UnwritableFolderError
from fuse4seg.files import make_writable_folder, write_json, written_whole

#: Of nnU-Net's properties, those that say where an image lies; PNG, BMP and TIFF have none.
PLACED = {"sitk_stuff", "nibabel_stuff"}
#: What nibabel writes as RGB24, which viewers show in colour.
RGB24 = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
KINDS = {1: "grey", 3: "colour"}
#: Of nnU-Net's formats, that which has no colours.
COLOURLESS = ".gipl"


def write_image(voxels: np.ndarray, path: Path, properties: dict[str, Any]) -> None:
    """Write a grey image in [0, 1] in the input's geometry: float32, or 8 bit in formats without a place in space.

    PNG, BMP and TIFF are such formats; a TIFF of several pages keeps them all. NIfTI of such an input has its spacing.

    Args:
        voxels: Shape (Z, Y, X), float32.
        path: Its ending chooses the format.
        properties: The case's, from nnU-Net's reader.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    without_place = not properties.keys() & PLACED
    if without_place and not path.name.endswith(NIFTI):
        voxels = np.rint(np.clip(voxels, 0, 1) * 255).astype(np.uint8)
    image = placed(voxels, properties)
    if without_place and path.name.endswith(NIFTI):
        image.SetSpacing([float(step) for step in properties["spacing"]][:-image.GetDimension() - 1:-1])
    if path.name.endswith(NIFTI) and "sitk_stuff" in properties and image.GetDimension() == 3:
        # ITK straightens what it writes as NIfTI; a NIfTI input's own header goes before.
        properties = {**header_at(affine_of(image)), **properties}
    with image_written_whole(path, properties) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


@contextmanager
def image_written_whole(path: Path, properties: dict[str, Any]) -> Iterator[Path]:
    """:func:`~fuse4seg.files.written_whole` for what ITK writes: on a full disk it cuts NIfTI files off and says nothing.

    NIfTI files get the input's own place in space, of which ITK writes what it understood.

    Args:
        path: As there.
        properties: The case's, from nnU-Net's reader.

    Raises:
        UnwritableFolderError: The operating system refused to write, or the image is not whole.
    """
    with written_whole(path) as temporary:
        try:
            yield temporary
        # What ITK raises when it notices.
        except RuntimeError as error:
            raise UnwritableFolderError(path.parent, "the disk may be full") from error
        try:
            if path.name.endswith(NIFTI):
                np.asanyarray(nibabel.load(temporary).dataobj)
                give_header_back(temporary, properties)
        # What nibabel raises when the end is missing.
        except (EOFError, ValueError, nibabel.filebasedimages.ImageFileError, zlib.error) as error:
            raise UnwritableFolderError(path.parent, "the disk may be full") from error


def placed(voxels: np.ndarray, properties: dict[str, Any]) -> sitk.Image:
    """Voxels (Z, Y, X) where the input lay, turned back to its order of axes if nnU-Net's reader turned them."""
    if not properties.keys() & PLACED:
        return sitk.GetImageFromArray(voxels if len(voxels) > 1 else voxels[0])
    if "nibabel_stuff" in properties:
        affines = properties["nibabel_stuff"]
        image = _with_affine(voxels, np.asarray(affines.get("reoriented_affine", affines["original_affine"])))
        order = "".join(nibabel.aff2axcodes(affines["original_affine"])) if "reoriented_affine" in affines else None
    else:
        placed = properties["sitk_stuff"]
        image = sitk.GetImageFromArray(voxels if len(placed["spacing"]) == 3 else voxels[0])
        image.SetSpacing(placed["spacing"])
        image.SetOrigin(placed["origin"])
        image.SetDirection(placed["direction"])
        order = placed.get("original_orientation")
    return sitk.DICOMOrient(image, order) if order else image


def _with_affine(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Image with nibabel's affine, which is RAS in voxel order (x, y, z); ITK's physical space is LPS."""
    turned = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(turned[:3, :3], axis=0)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(turned[:3, 3].tolist())
    image.SetDirection((turned[:3, :3] / spacing).ravel().tolist())
    return image


def affine_of(image: sitk.Image) -> np.ndarray:
    """The affine that nibabel has of a volume."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


def write_fused(levels: np.ndarray, folder: Path, name: str, ending: str, properties: dict[str, Any]) -> list[Path]:
    """Write a fused image in the input's geometry and, of one in colour, its luma in the sub-folder ``grey``.

    Args:
        levels: uint8, shape (C, Z, Y, X), C 1 or 3.
        folder: Exists.
        name: Of the case.
        ending: Of the file; NIfTI in colour is RGB24.
        properties: The case's, from nnU-Net's reader.

    Returns:
        The files.

    Raises:
        UnwritableFolderError: The operating system refused to write.
        UnsuitableImageError: The format has no colours.
    """
    if len(levels) > 1 and ending == COLOURLESS:
        raise UnsuitableImageError(folder / f"{name}{ending}", "cannot be written: its format has no colours. Convert the "
                                                               "dataset to .nii.gz, or plan it with --recipe grey.")
    written = _write([placed(channel, properties) for channel in levels], folder / f"{name}{ending}", properties)
    if len(levels) > 1:
        grey = make_writable_folder(folder / GREY) / f"{name}{ending}"
        written += _write([placed(grey_levels(levels), properties)], grey, properties)
    return written


def read_fused(path: Path, reader: type[BaseReaderWriter], *, colours: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Read what :func:`write_fused` wrote.

    Args:
        path: The file.
        reader: nnU-Net's, of the model.
        colours: Channels that the model reads; None for any.

    Returns:
        uint8, shape (C, Z, Y, X), and the reader's properties.

    Raises:
        UnreadableImageError: It is missing, truncated, or no image.
        UnsuitableImageError: It has another number of channels, or more than 8 bits.
    """
    header = read_header(path)
    found = 1 if _has_grey_palette(path) else header.GetNumberOfComponents()
    if found not in KINDS or found != (colours or found):
        raise UnsuitableImageError(path, f"is in {KINDS.get(found, f'{found} channels')}, but the model reads fused images in "
                                         f"{KINDS.get(colours, 'colour or grey')}. Give images that this model fused.")
    if header.GetPixelID() not in (sitk.sitkUInt8, sitk.sitkVectorUInt8):
        kind = sitk.GetPixelIDValueAsString(header.GetPixelID())
        raise UnsuitableImageError(path, f"holds {kind}, not 8 bits as fused images do. Give images that f4s_predict wrote.")
    if found > 1 or path.suffix in TIFF:
        return read_channels(path, reader)
    read = read_image(path, reader)
    return read.voxels.astype(np.uint8), read.properties


def _has_grey_palette(path: Path) -> bool:
    """Whether it is a grey BMP, which ITK takes for one in colour."""
    if path.suffix != ".bmp":
        return False
    try:
        with Picture.open(path) as opened:
            return opened.mode == "L"
    # What Pillow raises on damaged files has no common base.
    except Exception as error:
        raise UnreadableImageError(path, str(error) or type(error).__name__) from error


def _write(channels: list[sitk.Image], path: Path, properties: dict[str, Any]) -> list[Path]:
    with image_written_whole(path, properties) as temporary:
        if len(channels) == 1:
            sitk.WriteImage(channels[0], str(temporary), useCompression=True)
        elif path.name.endswith(NIFTI):
            _write_rgb24(channels, temporary)
        else:
            sitk.WriteImage(sitk.Compose(channels), str(temporary), useCompression=True)
    if path.suffix not in TIFF:
        return [path]
    # As nnU-Net keeps the spacing of TIFF files.
    beside = path.with_suffix(".json")
    write_json({"spacing": [float(step) for step in properties["spacing"]]}, beside)
    return [path, beside]


def _write_rgb24(channels: list[sitk.Image], path: Path) -> None:
    """NIfTI in colour; ITK would write a vector in a fifth dimension, which viewers take for something else."""
    sitk.WriteImage(channels[0], str(path))
    header = nibabel.load(path).header.copy()
    header.set_data_dtype(RGB24)
    colours = np.stack([sitk.GetArrayFromImage(channel).T for channel in channels], axis=-1)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(colours).view(RGB24)[..., 0], None, header), path)
