"""Between the input's grid and the one that the network works on: nnU-Net's resampling, but in blocks of slices.

Whole cases in nnU-Net's float64 do not fit into small machines, and take several times as long. The numbers are nnU-Net's up to
the rounding of float32: interpolation is separable, so slices that stay where they are can be resampled by themselves, and a
linear mixture of two slices does for one in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from scipy.ndimage import zoom
from torch import Tensor
from torch.nn import functional

from fuse4seg.colour import WHITE
from fuse4seg.inference.doubt import entropy, largest_entropy
from fuse4seg.inference.model import ModelDescription
from fuse4seg.networks.fuse_then_segment import DARKEST

Resample = Callable[..., np.ndarray]
Block = tuple[slice, np.ndarray]
Watch = Callable[[Tensor, np.ndarray], None]

#: Voxels of all channels in a block.
VOXELS_IN_BLOCK = 2**23


def to_input_space(images: Tensor | np.ndarray, properties: dict[str, Any], *, description: ModelDescription) -> np.ndarray:
    """Undo resampling, cropping and transposition for images in preprocessed space.

    Args:
        images: Shape (C, Z, Y, X).
        properties: The case's, as nnU-Net's preprocessor left them.
        description: The model's.

    Returns:
        float32, shape (C, *input shape); 0 outside the box that preprocessing kept.
    """
    whole = np.zeros((len(images), *properties["shape_before_cropping"]), dtype=np.float32)
    inside = _box(whole, properties)
    for block, part in _before_resampling(np.asarray(images), properties, description):
        inside[:, block] = part
    return _turned_back(whole, description)


def to_labels(logits: np.ndarray, properties: dict[str, Any], *, description: ModelDescription,
              want_probabilities: bool = False, watch: Watch | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels, and probabilities if wanted, of logits in preprocessed space; as nnU-Net makes them, but in blocks of slices.

    Args:
        logits: Shape (K, Z, Y, X).
        properties: The case's, as nnU-Net's preprocessor left them.
        description: The model's.
        want_probabilities: Else there are none.
        watch: Is given each block's logits (K, n, Y, X) and labels (n, Y, X), on the input's grid within the box that
            preprocessing kept, in the plans' order of axes.

    Returns:
        Labels, shape (*input shape), uint8 (uint16 where there are many), 0 outside the box that preprocessing kept; and
        probabilities, float32, shape (K, *input shape), those of background there.
    """
    shape, label_manager = properties["shape_before_cropping"], description.label_manager
    few = len(label_manager.foreground_labels) < 255
    labels, shares = np.zeros((1, *shape), dtype=np.uint8 if few else np.uint16), None
    if want_probabilities:
        shares = np.zeros((len(logits), *shape), dtype=np.float32)
        if not label_manager.has_regions:
            shares[0] = 1
    for block, part in _before_resampling(logits, properties, description):
        if shares is None:
            found = label_manager.convert_logits_to_segmentation(torch.from_numpy(part))
        else:
            probabilities = label_manager.apply_inference_nonlin(torch.from_numpy(part))
            found = label_manager.convert_probabilities_to_segmentation(probabilities)
            _box(shares, properties)[:, block] = probabilities.numpy()
        _box(labels, properties)[0, block] = np.asarray(found)
        if watch is not None:
            watch(torch.from_numpy(part), np.asarray(found))
    return _turned_back(labels, description)[0], None if shares is None else _turned_back(shares, description)


def to_uncertainty(logits: np.ndarray, properties: dict[str, Any], *, description: ModelDescription) -> np.ndarray:
    """Entropy of the class probabilities over the largest that it can be; arguments as in :func:`to_labels`.

    Returns:
        float32 in [0, 1], shape (*input shape); 0 outside the box that preprocessing kept, where background is certain.
    """
    whole = np.zeros((1, *properties["shape_before_cropping"]), dtype=np.float32)
    regions = description.label_manager.has_regions
    largest = largest_entropy(len(logits), regions=regions)
    for block, part in _before_resampling(logits, properties, description):
        found = entropy(torch.from_numpy(part), regions=regions).div_(largest)
        # Rounding of float32 may pass the ends.
        _box(whole, properties)[0, block] = found.clamp_(0, 1).numpy()
    return _turned_back(whole, description)[0]


def to_levels(fused: np.ndarray, properties: dict[str, Any], *, description: ModelDescription) -> np.ndarray:
    """What is exported of an image that was fused in preprocessed space.

    Args:
        fused: In [0, 1], 0 outside, shape (C, Z, Y, X).
        properties: The case's, as nnU-Net's preprocessor left them.
        description: The model's.

    Returns:
        uint8, shape (C, *input shape); 0 outside the image, DARKEST to WHITE inside.
    """
    placed = to_input_space(fused, properties, description=description)
    inside = (placed > 0).any(axis=0)
    np.multiply(placed, WHITE, out=placed)
    return np.clip(np.rint(placed, out=placed), DARKEST, WHITE).astype(np.uint8) * inside


def read_levels(levels: np.ndarray, spacing: Sequence[float], *,
                description: ModelDescription) -> tuple[np.ndarray, dict[str, Any]]:
    """What the follower sees of an exported fused image: cropped to what is not 0, and resampled as the plans say.

    Args:
        levels: uint8, shape (C, Z, Y, X).
        spacing: Millimetres along Z, Y, X.
        description: The model's.

    Returns:
        float32 in [0, 1], shape (C, Z', Y', X'), and what brings logits on that grid back, as nnU-Net's preprocessor names it.

    Source: nnU-Net's preprocessing (Isensee et al., 2021), without normalisation.
    """
    turned = levels.transpose([0, *[axis + 1 for axis in description.plans.transpose_forward]])
    current = [spacing[axis] for axis in description.plans.transpose_forward]
    shape, inside = turned.shape[1:], turned.any(axis=0)
    box = get_bbox_from_mask(inside) if inside.any() else [[0, extent] for extent in shape]
    cropped = turned[(slice(None), *(slice(*ends) for ends in box))]
    target = [*current[:len(shape) - len(description.configuration.spacing)], *description.configuration.spacing]
    wanted = tuple(int(extent) for extent in compute_new_shape(cropped.shape[1:], current, target))
    properties = {"spacing": list(spacing), "shape_before_cropping": shape, "bbox_used_for_cropping": box,
                  "shape_after_cropping_and_before_resampling": cropped.shape[1:]}
    if wanted == cropped.shape[1:]:
        return np.divide(cropped, WHITE, dtype=np.float32), properties
    image = resampled(cropped.astype(np.float32), wanted, current, target, resample=description.configuration.resampling_fn_data)
    there = resampled(cropped.any(axis=0, keepdims=True).astype(np.float32), wanted, current, target,
                      resample=description.configuration.resampling_fn_probabilities)
    return np.clip(image / WHITE, 0, 1) * (there > 0.5), properties


def resampled_blocks(images: np.ndarray, shape: Sequence[int], current: Sequence[float], target: Sequence[float], *,
                     resample: Resample) -> Iterator[Block]:
    """Resampled images, in blocks of slices.

    Args:
        images: Shape (C, Z, Y, X).
        shape: Wanted, (Z', Y', X').
        current: Spacing, mm.
        target: Wanted spacing, mm.
        resample: The plans' function.

    Yields:
        Where along Z' the block lies, and its voxels in float32, shape (C, n, Y', X').
    """
    shape = tuple(int(size) for size in shape)
    if images.shape[1:] == shape:
        for block in _blocks(len(images), shape):
            yield block, np.asarray(images[:, block], dtype=np.float32)
        return
    order, separate, axis = _settings(resample, current, target)
    if order == 1 and (not separate or axis == 0):
        along_z = _nearest if separate else _between
        for block in _blocks(len(images), shape):
            yield block, _bilinear(along_z(images, shape[0], block), shape[1:])
        return
    whole = resampled(images, shape, current, target, resample=resample)
    for block in _blocks(len(images), shape):
        yield block, whole[:, block]


def resampled(images: np.ndarray, shape: Sequence[int], current: Sequence[float], target: Sequence[float], *,
              resample: Resample) -> np.ndarray:
    """Resampled images in float32, channel by channel, and slice by slice where the slices stay; arguments as above."""
    if images.shape[1:] == tuple(shape):
        return np.asarray(images, dtype=np.float32)
    order, separate, axis = _settings(resample, current, target)
    found = np.empty((len(images), *shape), dtype=np.float32)
    stays = images.shape[1] == shape[0]
    for channel, image in zip(found, images, strict=True):
        if order is not None and stays and (not separate or axis == 0):
            # nnU-Net cuts overshoots off at the extremes of what it resamples at a time.
            limits = None if separate else (image.min(), image.max())
            for part, target_slice in zip(image, channel, strict=True):
                target_slice[:] = _zoomed(part, shape[1:], order, limits)
        else:
            channel[:] = np.asarray(resample(np.asarray(image[None], dtype=np.float32), shape, current, target))[0]
    return found


def _before_resampling(images: np.ndarray, properties: dict[str, Any], description: ModelDescription) -> Iterator[Block]:
    shape = properties["shape_after_cropping_and_before_resampling"]
    spacing = [properties["spacing"][axis] for axis in description.plans.transpose_forward]
    target = list(description.configuration.spacing)
    current = target if len(target) == len(shape) else [spacing[0], *target]
    return resampled_blocks(images, shape, current, spacing, resample=description.configuration.resampling_fn_probabilities)


def _box(whole: np.ndarray, properties: dict[str, Any]) -> np.ndarray:
    """View of what preprocessing kept of (C, Z, Y, X)."""
    return whole[(slice(None), *(slice(*map(int, ends)) for ends in properties["bbox_used_for_cropping"]))]


def _turned_back(whole: np.ndarray, description: ModelDescription) -> np.ndarray:
    return whole.transpose([0, *[axis + 1 for axis in description.plans.transpose_backward]])


def _settings(resample: Resample, current: Sequence[float], target: Sequence[float]) -> tuple[int | None, bool, int | None]:
    """Order, whether slices are resampled by themselves and along which axis they lie; no order of a function we do not know."""
    given = resample.keywords if isinstance(resample, partial) else {}
    function = resample.func if isinstance(resample, partial) else resample
    if function is not resample_data_or_seg_to_shape or given.get("is_seg") or given.get("order_z", 0) != 0:
        return None, False, None
    separate, axis = determine_do_sep_z_and_axis(given.get("force_separate_z", False), current, target,
                                                 *filter(None, [given.get("separate_z_anisotropy_threshold")]))
    return given.get("order", 3), bool(separate), axis


def _blocks(channels: int, shape: Sequence[int]) -> Iterator[slice]:
    step = max(1, VOXELS_IN_BLOCK // (channels * prod(shape[1:])))
    return (slice(start, stop) for start, stop in pairwise([*range(0, shape[0], step), shape[0]]))


def _between(images: np.ndarray, count: int, block: slice) -> np.ndarray:
    """Slices between slices, where they will lie among ``count`` over the same extent; mixed linearly."""
    places = np.clip((np.arange(block.start, block.stop) + 0.5) * images.shape[1] / count - 0.5, 0, images.shape[1] - 1)
    lower = np.floor(places).astype(int)
    upper, share = np.minimum(lower + 1, images.shape[1] - 1), (places - lower).astype(np.float32)[:, None, None]
    below = images[:, lower].astype(np.float32)
    return below + (images[:, upper] - below) * share if share.any() else below


def _nearest(images: np.ndarray, count: int, block: slice) -> np.ndarray:
    places = (np.arange(block.start, block.stop) + 0.5) * images.shape[1] / count
    return images[:, np.minimum(places.astype(int), images.shape[1] - 1)].astype(np.float32)


def _bilinear(slices: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    if slices.shape[2:] == tuple(shape):
        return slices
    return functional.interpolate(torch.from_numpy(slices), size=tuple(shape), mode="bilinear").numpy()


def _zoomed(image: np.ndarray, shape: Sequence[int], order: int, limits: tuple[float, float] | None) -> np.ndarray:
    factors = [new / old for new, old in zip(shape, image.shape, strict=True)]
    found = zoom(image.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)
    return found.clip(*(limits or (image.min(), image.max())))
