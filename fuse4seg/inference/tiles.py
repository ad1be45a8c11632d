"""Windows of the patch's size over a whole image, blended where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import Tensor


def pad_to_tiles(images: Tensor, *, tile: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad images that are smaller than the window with zeros on both sides, as in training.

    Args:
        images: Shape (B, K, *S).
        tile: Size of the window.

    Returns:
        The padded images, and where the given ones lie in them.
    """
    padded, inside = pad_nd_image(images, tuple(tile), "constant", {"value": 0}, return_slicer=True)
    return padded, (slice(None), slice(None), *inside[2:])


def blend_tiles(images: Tensor, compute: Callable[[Tensor], Tensor], *, tile: Sequence[int], step_size: float = 0.5) -> Tensor:
    """What ``compute`` makes of every window, blended with Gaussian weights; of a single window, just that.

    Args:
        images: Shape (B, K, *S), along no axis smaller than the window.
        compute: Makes (B, K', *tile), float32 on the CPU, of a window (B, K, *tile).
        tile: Size of the window.
        step_size: Step of the windows as a part of it, above 0, at most 1.

    Returns:
        Shape (B, K', *S).

    Source: nnU-Net's sliding window (Isensee et al., 2021): half-overlapping windows, Gaussian weights of 1/8 of the patch.
    """
    size, tile = tuple(images.shape[2:]), tuple(tile)
    if size == tile:
        return compute(images)
    weight = compute_gaussian(tile, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=torch.device("cpu"))
    total, weights = None, torch.zeros(size)
    starts = compute_steps_for_sliding_window(size, tile, step_size)
    for corner in product(*starts):
        window = tuple(slice(start, start + extent) for start, extent in zip(corner, tile, strict=True))
        found = compute(images[(..., *window)])
        total = torch.zeros(*found.shape[:2], *size) if total is None else total
        total[(..., *window)] += found * weight
        weights[window] += weight
    return total.div_(weights)
