"""Where a token lies: waves along each axis, for feature maps of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: The longest wave is about this many times the shortest.
LONGEST = 10_000.0


def position_code(size: Sequence[int], channels: int, *, device: torch.device | str | None = None) -> Tensor:
    r"""Fixed code of every place.

    Each axis has its own channels: sines, then cosines, of :math:`p \cdot 10000^{-k/K}` for the place p and k = 0 ... K - 1,
    where K = channels // (2 axes). Channels that are left over are 0. So a place has the same code in feature maps of all sizes,
    and the inner product of two codes depends on the distance along each axis alone.

    Args:
        size: Extent of each axis.
        channels: At least two per axis.
        device: Where to make it.

    Returns:
        Shape (channels, *size), float32, in [-1, 1].

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.5, axis by axis.
    """
    axes = len(size)
    waves = channels // (2 * axes)
    rates = LONGEST ** (-torch.arange(waves, device=device) / waves)
    code = torch.zeros(channels, *size, device=device)
    for axis, extent in enumerate(size):
        angles = rates.unsqueeze(1) * torch.arange(extent, device=device)
        along = [extent if other == axis else 1 for other in range(axes)]
        code[2 * waves * axis:2 * waves * (axis + 1)] = torch.cat([angles.sin(), angles.cos()]).unflatten(1, along)
    return code
