"""NIfTI headers: straightened for ITK, which takes no shear and no NIfTI-2, and given back to what is written of an image."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

from fuse4seg.errors import Fuse4SegError, UnreadableImageError, first_line
from fuse4seg.files import require_plain_name

logger = logging.getLogger(__name__)

NIFTI = (".nii", ".nii.gz")
#: Degrees between two axes and a right angle that are taken for rounding. Across 300 mm they are 2.6 mm.
STRAIGHT = 0.5
#: In an image's properties: the header of its file, as bytes.
HEADER = "nifti_header"
#: Fields that say where an image lies.
PLACE = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x",
         "srow_y", "srow_z", "xyzt_units")


@contextmanager
def readable_by_itk(paths: Sequence[Path], *, tilted: bool = False) -> Iterator[list[Path]]:
    """The files, or straightened NIfTI-1 copies of NIfTI files that ITK refuses and nibabel reads.

    Args:
        paths: Image files of any format.
        tilted: Whether axes may be any way off right angles, because the place in space is not asked for.

    Raises:
        UnreadableImageError: Axes of such a file are further than STRAIGHT from right angles, or its voxels cannot be read; or a
            file's name is not in UTF-8.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = []
        for number, path in enumerate(paths):
            require_plain_name(path)
            given.append(path)
            if is_nifti(path) and not _is_read_by_itk(path) and (image := _loaded(path)) is not None:
                given[-1] = Path(folder) / f"{number}.nii.gz"
                _try_save_straight(path, image, given[-1], 90 if tilted else STRAIGHT)
        yield given


def is_nifti(path: Path) -> bool:
    """Whether a name ends so, in capitals or not."""
    return path.name.lower().endswith(NIFTI)


def is_tilted(path: Path) -> bool:
    """Whether ITK refuses a NIfTI file because its axes are further than STRAIGHT from right angles."""
    image = _loaded(path) if is_nifti(path) and not _is_read_by_itk(path) else None
    return image is not None and _degrees_off(image.affine) > STRAIGHT


def header_at(affine: np.ndarray) -> dict[str, bytes]:
    """HEADER of a NIfTI file with this affine (RAS, millimetres), sheared or not; its qform says as much of it as one can."""
    image = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.uint8), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return {HEADER: image.header.binaryblock}


def header_of(path: Path) -> dict[str, bytes]:
    """What an image's properties say of its header: HEADER of a NIfTI file, nothing of another."""
    image = _loaded(path) if is_nifti(path) else None
    return {} if image is None else {HEADER: image.header.binaryblock}


def claimed_voxels(path: Path) -> int:
    """How many voxels a header claims, by nibabel; 0 where it cannot read it."""
    image = _loaded(path)
    return 0 if image is None else math.prod(image.shape)


def give_header_back(path: Path, properties: dict[str, Any]) -> None:
    """Place a NIfTI file, whose voxels are in the order of the input's, by sform, qform and codes as the input is placed.

    Args:
        path: The file, which is written anew if it lies elsewhere.
        properties: The input's, with HEADER or what nnU-Net's NibabelIO says; of others the file stays as it is.
    """
    wanted = _header_in(properties)
    if wanted is None:
        return
    image = nibabel.load(path, mmap=False)  # it may be written over
    axes = min(3, len(image.shape))
    header = image.header.copy()
    for entry in PLACE:
        header[entry] = wanted[entry]
    # The first is the side that a qform turns to.
    header["pixdim"][:axes + 1] = wanted["pixdim"][:axes + 1]
    if header.binaryblock != image.header.binaryblock:
        voxels = np.asanyarray(image.dataobj)
        nibabel.save(nibabel.Nifti1Image(voxels, None, header, dtype=voxels.dtype), path)


def _header_in(properties: dict[str, Any]) -> nibabel.Nifti1Header | None:
    if HEADER in properties:
        block = properties[HEADER]
        kind = nibabel.Nifti1Header if len(block) == nibabel.Nifti1Header.template_dtype.itemsize else nibabel.Nifti2Header
        return kind(block, check=False)
    if "nibabel_stuff" in properties:
        return nibabel.Nifti1Image(np.zeros((1, 1, 1), np.uint8), properties["nibabel_stuff"]["original_affine"]).header
    return None


def itk_header(path: Path) -> sitk.ImageFileReader:
    """ITK's reader of an image of any format, with what its header says.

    Raises:
        RuntimeError: ITK cannot read it.
        UnreadableImageError: Its name is not in UTF-8.
    """
    require_plain_name(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _is_read_by_itk(path: Path) -> bool:
    try:
        itk_header(path)
    except RuntimeError:
        return False
    return True


def _loaded(path: Path) -> nibabel.Nifti1Image | None:
    try:
        return nibabel.load(path)
    # Damaged in a way that ITK, which says more, finds too; nibabel's errors have no common base.
    except Exception:
        logger.debug("nibabel cannot read %s", path, exc_info=True)
        return None


def _try_save_straight(path: Path, image: nibabel.Nifti1Image, copy: Path, allowed: float) -> None:
    try:
        _save_straight(path, image, copy, allowed)
    except Fuse4SegError:
        raise
    # nibabel has no common base for what it raises on damaged files.
    except Exception as error:
        raise UnreadableImageError(path, first_line(error)) from error


def _degrees_off(affine: np.ndarray) -> float:
    """Of two axes from a right angle, at most; NaN where an axis has no direction."""
    with np.errstate(invalid="ignore", divide="ignore"):
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return math.degrees(math.asin(np.minimum(1, np.abs(axes.T @ axes - np.eye(3)).max())))


def _save_straight(path: Path, image: nibabel.Nifti1Image, copy: Path, allowed: float) -> None:
    affine = image.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not (spacing > 0).all():
        raise UnreadableImageError(path, "its header says no place in space")
    off = _degrees_off(affine)
    if off > allowed:
        raise UnreadableImageError(path, f"its axes are {off:.3g} degrees off right angles, up to {STRAIGHT} are straightened",
                                   mend="Resample it to a straight grid, for example with "
                                        "nibabel.processing.resample_to_output.")
    if off > 0.01 and allowed == STRAIGHT:
        logger.warning("%s: its axes are %.3g degrees off right angles, and are taken for straight", path, off)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    straight = np.eye(4)
    straight[:3, :3], straight[:3, 3] = (left @ right) * spacing, affine[:3, 3]
    voxels = np.asanyarray(image.dataobj)
    made = nibabel.Nifti1Image(voxels, straight, dtype=voxels.dtype)
    made.header["xyzt_units"] = image.header["xyzt_units"]
    made.set_sform(straight, 1)
    made.set_qform(straight, 1)
    nibabel.save(made, copy)
