"""Bring what was computed on a preprocessed case back to the input's geometry, and write it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor

from fuse4seg.datasets.images import NIFTI
from fuse4seg.errors import UnwritableFolderError
from fuse4seg.files import written_whole
from fuse4seg.inference.resampling import Block, resampled_blocks

#: Of nnU-Net's properties, those that say where an image lies; PNG, BMP and TIFF have none.
PLACED = {"sitk_stuff", "nibabel_stuff"}


def to_input_space(images: Tensor | np.ndarray, properties: dict[str, Any], *, plans: PlansManager,
                   configuration: ConfigurationManager) -> np.ndarray:
    """Undo resampling, cropping and transposition for images in preprocessed space.

    Args:
        images: Shape (C, Z, Y, X).
        properties: The case's, as nnU-Net's preprocessor left them.
        plans: The model's.
        configuration: The model's.

    Returns:
        float32, shape (C, *input shape); 0 outside the box that preprocessing kept.
    """
    whole = np.zeros((len(images), *properties["shape_before_cropping"]), dtype=np.float32)
    inside = _box(whole, properties)
    for block, part in _before_resampling(np.asarray(images), properties, plans, configuration):
        inside[:, block] = part
    return _turned_back(whole, plans)


def to_labels(logits: np.ndarray, properties: dict[str, Any], *, plans: PlansManager, configuration: ConfigurationManager,
              label_manager: LabelManager, want_probabilities: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels, and probabilities if wanted, of logits in preprocessed space; as nnU-Net makes them, but in blocks of slices.

    Args:
        logits: Shape (K, Z, Y, X).
        properties: The case's, as nnU-Net's preprocessor left them.
        plans: The model's.
        configuration: The model's.
        label_manager: The model's.
        want_probabilities: Else there are none.

    Returns:
        Labels, shape (*input shape), uint8 (uint16 where there are many), 0 outside the box that preprocessing kept; and
        probabilities, float32, shape (K, *input shape), those of background there.
    """
    shape, few = properties["shape_before_cropping"], len(label_manager.foreground_labels) < 255
    labels, shares = np.zeros((1, *shape), dtype=np.uint8 if few else np.uint16), None
    if want_probabilities:
        shares = np.zeros((len(logits), *shape), dtype=np.float32)
        if not label_manager.has_regions:
            shares[0] = 1
    for block, part in _before_resampling(logits, properties, plans, configuration):
        if shares is None:
            found = label_manager.convert_logits_to_segmentation(torch.from_numpy(part))
        else:
            probabilities = label_manager.apply_inference_nonlin(torch.from_numpy(part))
            found = label_manager.convert_probabilities_to_segmentation(probabilities)
            _box(shares, properties)[:, block] = probabilities.numpy()
        _box(labels, properties)[0, block] = np.asarray(found)
    return _turned_back(labels, plans)[0], None if shares is None else _turned_back(shares, plans)


def _before_resampling(images: np.ndarray, properties: dict[str, Any], plans: PlansManager,
                       configuration: ConfigurationManager) -> Iterator[Block]:
    shape = properties["shape_after_cropping_and_before_resampling"]
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    target = list(configuration.spacing)
    current = target if len(target) == len(shape) else [spacing[0], *target]
    return resampled_blocks(images, shape, current, spacing, resample=configuration.resampling_fn_probabilities)


def _box(whole: np.ndarray, properties: dict[str, Any]) -> np.ndarray:
    """View of what preprocessing kept of (C, Z, Y, X)."""
    return whole[(slice(None), *(slice(*map(int, ends)) for ends in properties["bbox_used_for_cropping"]))]


def _turned_back(whole: np.ndarray, plans: PlansManager) -> np.ndarray:
    return whole.transpose([0, *[axis + 1 for axis in plans.transpose_backward]])


def write_image(voxels: np.ndarray, path: Path, properties: dict[str, Any]) -> None:
    """Write a grey image in [0, 1] in the input's geometry: float32, or 8 bit for formats without a place in space.

    PNG, BMP and TIFF are such formats; a TIFF of several pages keeps them all.

    Args:
        voxels: Shape (Z, Y, X), float32.
        path: Its ending chooses the format.
        properties: The case's, from nnU-Net's reader.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    if not properties.keys() & PLACED:
        voxels = np.rint(np.clip(voxels, 0, 1) * 255).astype(np.uint8)
    image = placed(voxels, properties)
    with image_written_whole(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


@contextmanager
def image_written_whole(path: Path) -> Iterator[Path]:
    """:func:`~fuse4seg.files.written_whole` for what ITK writes: on a full disk it cuts NIfTI files off and says nothing.

    Raises:
        UnwritableFolderError: The operating system refused to write, or the image is not whole.
    """
    with written_whole(path) as temporary:
        try:
            yield temporary
            if path.name.endswith(NIFTI):
                np.asanyarray(nibabel.load(temporary).dataobj)
        # What ITK raises when it notices, and what nibabel raises when the end is missing.
        except (RuntimeError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError, zlib.error) as error:
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
