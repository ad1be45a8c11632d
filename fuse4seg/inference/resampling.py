"""nnU-Net's default resampling, a few slices at a time: whole cases in float64 do not fit into small machines.

The numbers are nnU-Net's up to the rounding of float32: interpolation is separable, so slices that stay where they are can be
resampled by themselves, and a linear mixture of two slices does for one in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import prod

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis, resample_data_or_seg_to_shape
from scipy.ndimage import zoom
from torch.nn import functional

Resample = Callable[..., np.ndarray]
Block = tuple[slice, np.ndarray]

#: Voxels of all channels in a block.
VOXELS_IN_BLOCK = 2**23


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
