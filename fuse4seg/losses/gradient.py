"""Gradient magnitude of images: how strong the edge at each voxel is."""

from __future__ import annotations

import torch
from torch import Tensor


def gradient_magnitude(images: Tensor) -> Tensor:
    r"""Sum over the axes of the absolute Sobel derivative, per channel.

    .. math:: |\nabla M| = \sum_a \Bigl| D_a \prod_{b \neq a} T_b \, M \Bigr|,
        \quad D = \tfrac{1}{2} [-1, 0, 1], \quad T = \tfrac{1}{4} [1, 2, 1]

    The border is replicated. The L1 form is exactly 0 for a constant image and has a finite (sub)gradient there, which
    the Euclidean norm has not.

    Args:
        images: Shape (B, N, *S), S of two or three axes.

    Returns:
        Intensity per voxel, shape (B, N, *S); at most half the intensity range per axis.
    """
    axes = range(2, images.ndim)
    return sum(_derivative(images, axis, across=[other for other in axes if other != axis]).abs() for axis in axes)


def _derivative(images: Tensor, axis: int, *, across: list[int]) -> Tensor:
    for other in across:
        images = smoothed(images, other)
    before, after = _neighbours(images, axis)
    return (after - before) / 2


def smoothed(images: Tensor, axis: int) -> Tensor:
    """Binomial mean, 1 2 1 over 4, of every voxel and its neighbours along an axis of (B, N, *S); the border is repeated."""
    before, after = _neighbours(images, axis)
    return (before + 2 * images + after) / 4


def _neighbours(images: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    # Concatenation rather than padding: the backward pass of replication padding is not deterministic on CUDA.
    size = images.shape[axis]
    first, last = images.narrow(axis, 0, 1), images.narrow(axis, size - 1, 1)
    before = torch.cat([first, images.narrow(axis, 0, size - 1)], dim=axis)
    after = torch.cat([images.narrow(axis, 1, size - 1), last], dim=axis)
    return before, after
