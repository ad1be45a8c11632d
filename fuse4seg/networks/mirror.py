"""Mirror each sample of a batch along axes of its own."""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored(images: Tensor, flips: Tensor) -> Tensor:
    """``images`` with every sample flipped along the axes where ``flips`` is True.

    Args:
        images: Shape (B, C, *S).
        flips: Bool of shape (B, axes), the axes in the order of S.
    """
    for axis in range(flips.shape[1]):
        chosen = flips[:, axis].view(-1, *[1] * (images.ndim - 1))
        images = torch.where(chosen, images.flip(axis + 2), images)
    return images
